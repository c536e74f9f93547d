"""What real directories hold: their listings, and the cache of a merged directory.

A merged directory keeps, once it has been needed, which layers have which name; a new one does from its
beginning, as long as it is not huge. Lowers do not change while mounted and every change of upper comes
through the mount, so the cache is true for as long as it lives: it makes a lookup, a miss included, cost the
same with 2 layers as with 100, and holds what upper has. Nothing here looks an object up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from unionfs.overlay.access import LIST, listing_fd
from unionfs.overlay.dir_cache import ALONE, HIDDEN, PRESENT, DirCache
from unionfs.overlay.format import WHITEOUT_PREFIX, Format
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import RealDir, is_whiteout_device
from unionfs.overlay.under_way import LISTING, READING, SlowWork
from unionfs.overlay.wait import Wait, perform

DT_UNKNOWN = 0
DT_DIR = 4
DT_REG = 8
DT_LNK = 10
"""Types of listed names, as readdir(3) says them: the kind in `st_mode`, 12 bits further down."""

_AUFS_PREFIX = WHITEOUT_PREFIX * 2
"""`.wh..wh..opq` and the directories that AUFS keeps for itself."""

_SLOW_SIZE = 256 * 1024
"""A directory of at least this size (bytes, `st_size`) is listed by a worker; it has some thousand names."""

_MOST_NEW = 20_000
"""So many names a directory that is in upper only may have before it loses its cache, which costs memory."""


class Scan:
    """What one real directory holds: names with their d_ino and type, and `marks`, the names hidden below.

    A name that has its own `.wh.` mark beside it is in both.
    """

    __slots__ = ("kinds", "marks", "names", "numbers")

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.numbers: list[int] = []
        self.kinds = bytearray()
        self.marks: list[bytes] = []


def scan(fd: int, fmt: Format, whiteout_files: bool) -> Scan:
    """List one real directory (a readable descriptor).

    `.wh.` files are turned into what they mean, the opaque mark left out: it belongs to the directory.
    """
    found = Scan()
    add_name, add_number, add_kind = found.names.append, found.numbers.append, found.kinds.append
    with _entries(fd) as entries:
        for entry in entries:
            name = entry.name
            if isinstance(name, str):
                name = os.fsencode(name)
            if name[:4] == WHITEOUT_PREFIX and (
                name.startswith(_AUFS_PREFIX)
                or entry.is_file(follow_symlinks=False)
                or _is_mark_device(entry)
            ):
                if not name.startswith(_AUFS_PREFIX):
                    found.marks.append(name[len(WHITEOUT_PREFIX) :])
                continue
            # In this order none of these three follows a symlink, and none is a system call.
            if entry.is_symlink():
                kind = DT_LNK
            elif entry.is_file():
                kind = DT_REG
                if whiteout_files and _is_whiteout_file(entry, b"/proc/self/fd/%d/%b" % (fd, name), fmt):
                    found.marks.append(name)
                    continue
            elif entry.is_dir():
                kind = DT_DIR
            else:
                try:
                    st = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # removed meanwhile: upper may change while a worker lists it
                if is_whiteout_device(st):
                    found.marks.append(name)
                    continue
                kind = st.st_mode >> 12
            add_name(name)
            add_number(entry.inode())
            add_kind(kind)
    return found


_Entry = os.DirEntry[bytes] | os.DirEntry[str]


def _entries(fd: int) -> AbstractContextManager[Iterator[_Entry]]:
    """What a directory holds; with names as str where nothing but the descriptor itself will do."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NOATIME:
        return os.scandir(fd)  # one that is opened anew would be without the flag
    try:
        return os.scandir(b"/proc/self/fd/%d" % fd)
    except PermissionError:
        return os.scandir(fd)  # opened past its mode (`listing_fd`)


def _is_mark_device(entry: _Entry) -> bool:
    try:
        return is_whiteout_device(entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False  # removed meanwhile


def _is_whiteout_file(entry: _Entry, path: bytes, fmt: Format) -> bool:
    return entry.stat(follow_symlinks=False).st_size == 0 and any(
        fmt.read(path, mark) is not None for mark in fmt.whiteouts
    )


def build_cache(upper: Scan | None, lowers: Iterable[Scan]) -> DirCache:
    """Merge what the layers' directories hold, top first."""
    cache = DirCache()
    if upper is not None:
        table = cache.upper = dict.fromkeys(upper.names, PRESENT)
        for name in upper.marks:
            table[name] = ALONE if table.get(name) else HIDDEN
    lower = cache.lower
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    for place, found in enumerate(lowers):
        mine = (place,)
        for name in found.names:
            before = lower.get(name)
            places = mine if before is None else (*before, place)
            lower[name] = shared.setdefault(places, places)
        for name in found.marks:
            places = (*lower.get(name, ()), ~place)
            lower[name] = shared.setdefault(places, places)
    return cache


class Source:
    """A real directory, open for listing. One whose mode forbids that to us is lent until it is closed."""

    __slots__ = ("_loan", "fd", "real")

    def __init__(self, fs: OverlayFs, real: RealDir) -> None:
        self.real = real
        self._loan: contextlib.ExitStack | None = None
        if not real.layer.is_upper:
            self.fd = listing_fd(fs, real)
            return
        if fs.lender is not None:
            self._loan = contextlib.ExitStack()
            self._loan.enter_context(fs.lend(real, LIST))
        try:
            self.fd = real.listing_fd()
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        if self._loan is not None:
            self._loan.close()

    def close(self) -> None:
        os.close(self.fd)
        self._give_back()


class Sources:
    """The real directories of a directory, top first, open for listing. `scan` may be called anywhere.

    `is_slow`: one of them is so large that a worker had better list them.
    """

    __slots__ = ("_format", "is_slow", "opened")

    def __init__(self, fs: OverlayFs, directory: Directory) -> None:
        self._format = fs.format
        self.opened: list[Source] = []
        try:
            for real in directory.real_dirs():
                self.opened.append(Source(fs, real))
            self.is_slow = any(os.fstat(source.fd).st_size >= _SLOW_SIZE for source in self.opened)
        except BaseException:
            self.close()
            raise

    def scan(self) -> list[Scan]:
        """List them all."""
        return [scan(source.fd, self._format, source.real.whiteout_files) for source in self.opened]

    def cache(self, scans: list[Scan]) -> DirCache:
        has_upper = self.opened[0].real.layer.is_upper
        return build_cache(scans[0] if has_upper else None, scans[1:] if has_upper else scans)

    def close(self) -> None:
        for source in self.opened:
            source.close()
        self.opened = []


class CacheTask:
    """Making the cache of a directory; the listing itself runs anywhere.

    What changes in upper meanwhile (only a copy-up that ends can) is noted in `changes`.
    """

    __slots__ = ("_cache", "_directory", "_fs", "_sources", "changes", "progress")

    def __init__(self, fs: OverlayFs, directory: Directory) -> None:
        self._fs = fs
        self._directory = directory
        self._cache: DirCache | None = None
        self._sources = Sources(fs, directory)
        self.changes: list[tuple[bytes, int | None]] = []
        self.progress: SlowWork | None = None

    @property
    def is_slow(self) -> bool:
        return self._sources.is_slow

    def run(self) -> None:
        self._cache = self._sources.cache(self._scan())

    def _scan(self) -> list[Scan]:
        if self.progress is not None:
            self.progress.enter(READING)
        return self._sources.scan()

    def wait(self) -> Wait:
        """What to raise when it is to be done by a worker."""
        self.progress = self._fs.under_way.begin(LISTING, self._directory)
        return Wait(self)

    def finish(self, error: BaseException | None) -> None:
        self._fs.under_way.end(self.progress)
        self._sources.close()
        directory = self._directory
        directory.pending = None
        if error is None and self._cache is not None:
            directory.cache = self._cache
            for name, there in self.changes:
                _note_in_cache(directory, name, there)
        else:
            self._fs.table.drop_if_unused(directory)


def cache_of(fs: OverlayFs, directory: Directory) -> DirCache:
    """The cache of a merged directory, made when it is first needed.

    Raises `Wait` for a directory that takes long to list.
    """
    cache = directory.cache
    if cache is not None:
        return cache
    if directory.pending is not None:
        raise Wait(directory.pending)
    task = CacheTask(fs, directory)
    if task.is_slow:
        directory.pending = task
        raise task.wait()
    perform(task)
    assert directory.cache is not None
    return directory.cache


def note_upper(directory: Directory, name: bytes, there: int | None) -> None:
    """Take note of what upper now holds at a name: PRESENT, HIDDEN (a whiteout) or None (nothing)."""
    note_listed(directory, name)
    _note_in_cache(directory, name, there)


def note_listed(directory: Directory, name: bytes) -> None:
    """Have it noted for listings of the directory that this name is gone, or is another object."""
    for changes in directory.listed:
        changes.add(name)


def _note_in_cache(directory: Directory, name: bytes, there: int | None) -> None:
    cache = directory.cache
    if cache is None:
        if isinstance(directory.pending, CacheTask):
            directory.pending.changes.append((name, there))
    elif there is None:
        cache.upper.pop(name, None)
    else:
        cache.upper[name] = there
        if len(cache.upper) > _MOST_NEW and not directory.lowers:
            directory.cache = None


def upper_has(directory: Directory, place: RealDir, name: bytes) -> bool:
    """Whether upper has an object of this name, a whiteout perhaps; *place* is the directory's there."""
    cache = directory.cache
    if cache is not None:
        there = cache.upper.get(name)
        if there is not HIDDEN:
            return there is not None
    return place.has(name)


def is_empty(fs: OverlayFs, directory: Directory) -> bool:
    """Whether a caller would see no name in it. May raise `Wait`."""
    if directory.cache is not None:
        return directory.cache.is_empty()
    if directory.merged and fs.layers_static:
        return cache_of(fs, directory).is_empty()
    sources = Sources(fs, directory)
    try:
        return sources.cache(sources.scan()).is_empty()
    finally:
        sources.close()
