"""Listings: the index of a merged directory, and the snapshot that an open directory serves.

A merged directory keeps, once it has been needed, which layers have which name; a new one does from its
beginning, as long as it is not huge. Lowers do not change while mounted and every change of upper comes
through the mount, so the index is true for as long as it lives: it makes a lookup, a miss included, cost the
same with 2 layers as with 100, and tells what upper has without asking it. Nothing here looks an object up.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from unionfs.overlay.access import listing_fd
from unionfs.overlay.format import WHITEOUT_PREFIX
from unionfs.overlay.layer import is_whiteout_device
from unionfs.overlay.wait import Task, Wait, perform

if TYPE_CHECKING:
    from unionfs.overlay.format import Format
    from unionfs.overlay.fs import OverlayFs
    from unionfs.overlay.inode import Directory
    from unionfs.overlay.layer import RealDir
    from unionfs.overlay.plain import Numbers

HIDDEN = 0
PRESENT = 1
ALONE = 2
"""What upper holds at a name: a whiteout, an object, or an object beside its own `.wh.` mark, which hides
what the lowers have of that name."""

_AUFS_PREFIX = WHITEOUT_PREFIX * 2
"""`.wh..wh..opq` and the directories that AUFS keeps for itself."""

SLOW_SIZE = 256 * 1024
"""A directory of at least this size (bytes, `st_size`) is listed by a worker; it has some thousand names."""

_MOST_NEW = 20_000
"""So many names a directory that is in upper only may have before it loses its index, which costs memory."""

Names = list[bytes]
"""What a listing shows."""

_Scan = list[tuple[bytes, int]]
"""Names in one real directory, each PRESENT or HIDDEN; one with a `.wh.` mark beside it stands twice."""


class DirIndex:
    """Which layers have which name.

    `lower` maps a name to the places in `Directory.lowers` that have it, top first; a place where it is
    whited out stands as its complement (`~place`). `upper` maps a name to HIDDEN, PRESENT or ALONE.
    """

    __slots__ = ("lower", "upper")

    def __init__(self) -> None:
        self.lower: dict[bytes, tuple[int, ...]] = {}
        self.upper: dict[bytes, int] = {}

    def names(self) -> list[bytes]:
        """Every name that a caller sees."""
        upper = self.upper
        names = [name for name, there in upper.items() if there]
        names += [name for name, places in self.lower.items() if places[0] >= 0 and name not in upper]
        return names

    def is_empty(self) -> bool:
        """Whether a caller sees no name."""
        upper = self.upper
        return not any(upper.values()) and not any(
            places[0] >= 0 and name not in upper for name, places in self.lower.items()
        )


def scan(fd: int, fmt: Format, whiteout_files: bool) -> _Scan:
    """List one real directory (a readable descriptor). A name may be both whited out for below and present.

    `.wh.` files are turned into what they mean, the opaque mark left out: it belongs to the directory.
    """
    found: _Scan = []
    append = found.append
    path = b"/proc/self/fd/%d" % fd
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(_AUFS_PREFIX) or (
                name.startswith(WHITEOUT_PREFIX) and entry.is_file(follow_symlinks=False)
            ):
                if not name.startswith(_AUFS_PREFIX):
                    append((name[len(WHITEOUT_PREFIX) :], HIDDEN))
            elif entry.is_file(follow_symlinks=False):
                hidden = whiteout_files and _is_whiteout_file(entry, fmt)
                append((name, HIDDEN if hidden else PRESENT))
            elif entry.is_dir(follow_symlinks=False) or entry.is_symlink():
                append((name, PRESENT))
            else:
                hidden = is_whiteout_device(entry.stat(follow_symlinks=False))
                append((name, HIDDEN if hidden else PRESENT))
    return found


def _is_whiteout_file(entry: os.DirEntry[bytes], fmt: Format) -> bool:
    return entry.stat(follow_symlinks=False).st_size == 0 and fmt.read(entry.path, fmt.whiteout) is not None


def build_index(upper: _Scan | None, lowers: Iterable[_Scan]) -> DirIndex:
    """Merge what the layers' directories hold, top first."""
    index = DirIndex()
    if upper is not None:
        table = index.upper
        for name, there in upper:
            table[name] = ALONE if table.get(name, there) != there else there
    lower = index.lower
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    for place, names in enumerate(lowers):
        marks: list[bytes] = []
        mine = (place,)
        for name, there in names:
            if there:
                before = lower.get(name)
                places = mine if before is None else (*before, place)
                lower[name] = shared.setdefault(places, places)
            else:
                marks.append(name)
        for name in marks:
            places = (*lower.get(name, ()), ~place)
            lower[name] = shared.setdefault(places, places)
    return index


class IndexTask:
    """Listing the layers of a directory; the listing itself runs anywhere.

    What changes in upper meanwhile (only a copy-up that ends can) is noted in `changes`.
    """

    __slots__ = ("_directory", "_fds", "_fs", "_index", "changes")

    def __init__(self, fs: OverlayFs, directory: Directory) -> None:
        self._fs = fs
        self._directory = directory
        self._index: DirIndex | None = None
        self.changes: list[tuple[bytes, int | None]] = []
        self._fds: list[tuple[int, bool, bool]] = []
        try:
            for real in directory.real_dirs():
                self._fds.append((listing_fd(fs, real), real.layer.is_upper, real.whiteout_files))
        except BaseException:
            self._close()
            raise

    @property
    def is_slow(self) -> bool:
        return any(os.fstat(fd).st_size >= SLOW_SIZE for fd, _, _ in self._fds)

    def run(self) -> None:
        fmt = self._fs.format
        scans = [(is_upper, scan(fd, fmt, files)) for fd, is_upper, files in self._fds]
        upper = next((found for is_upper, found in scans if is_upper), None)
        self._index = build_index(upper, [found for is_upper, found in scans if not is_upper])

    def finish(self, error: BaseException | None) -> None:
        self._close()
        directory = self._directory
        directory.copying = None
        if error is None and self._index is not None:
            directory.index = self._index
            for name, there in self.changes:
                note_upper(directory, name, there)
        else:
            self._fs.table.drop_if_unused(directory)

    def _close(self) -> None:
        for fd, _, _ in self._fds:
            os.close(fd)
        self._fds = []


def index_of(fs: OverlayFs, directory: Directory) -> DirIndex:
    """The index of a merged directory, made when it is first needed.

    Raises `Wait` for a directory that takes long to list.
    """
    index = directory.index
    if index is not None:
        return index
    if directory.copying is not None:
        raise Wait(directory.copying)
    task = IndexTask(fs, directory)
    if task.is_slow:
        directory.copying = task
        raise Wait(task)
    perform(task)
    assert directory.index is not None
    return directory.index


def note_upper(directory: Directory, name: bytes, there: int | None) -> None:
    """Tell the index what upper now holds at a name: PRESENT, HIDDEN (a whiteout) or None (nothing)."""
    index = directory.index
    if index is None:
        if isinstance(directory.copying, IndexTask):
            directory.copying.changes.append((name, there))
    elif there is None:
        index.upper.pop(name, None)
    else:
        index.upper[name] = there
        if len(index.upper) > _MOST_NEW and not directory.lowers:
            directory.index = None


def upper_has(directory: Directory, place: RealDir, name: bytes) -> bool:
    """Whether upper has an object of this name, a whiteout perhaps; *place* is the directory's there."""
    index = directory.index
    if index is not None:
        there = index.upper.get(name)
        if there is not HIDDEN:
            return there is not None
    return place.has(name)


class SnapshotTask:
    """Listing a large directory that lies in one layer only."""

    __slots__ = ("_fd", "_fs", "_handle", "_whiteout_files", "names")

    def __init__(self, fs: OverlayFs, handle: DirHandle) -> None:
        self._fs = fs
        self._handle = handle
        real = handle.directory.top
        self._fd = listing_fd(fs, real)
        self._whiteout_files = real.whiteout_files
        self.names: list[bytes] = []

    @property
    def is_slow(self) -> bool:
        return os.fstat(self._fd).st_size >= SLOW_SIZE

    def run(self) -> None:
        found = scan(self._fd, self._fs.format, self._whiteout_files)
        self.names = [name for name, there in found if there]

    def finish(self, error: BaseException | None) -> None:
        os.close(self._fd)
        handle = self._handle
        handle.pending = None
        if error is None:
            handle.take(self.names)
            handle.fresh = True


class DirHandle:
    """An open directory: the names it had when the listing began, so that cookies stay valid.

    A cookie is a name's place, after "." and "..". Names that have gone meanwhile are left out, names that
    have come are not shown: POSIX leaves both open. A rewind takes a new snapshot; in a *standing* handle,
    which several readers share, a name keeps its place in it, and a place is nobody else's ever after.
    """

    __slots__ = ("_next", "_places", "_standing", "directory", "fresh", "names", "numbers", "pending")

    def __init__(self, directory: Directory, *, standing: bool = False) -> None:
        self.directory = directory
        self.names: Names | None = None
        self.fresh = False
        self.pending: Task | None = None
        # What `plain.py` knows of these names, once somebody has wanted it.
        self.numbers: Numbers | None = None
        self._standing = standing
        # By index in `names`, rising; None while each name's place is its index.
        self._places: array[int] | None = None
        self._next = 0

    def take(self, names: Names) -> Names:
        """Serve these names from now on."""
        self.numbers = None
        old = self.names
        if not self._standing or old is None:
            self.names = names
            self._next = len(names)
            return names
        if old == names:
            return old
        there = set(names)
        places = self._places or array("Q", range(len(old)))
        kept = [index for index, name in enumerate(old) if name in there]
        there.difference_update(old)
        new = [name for name in names if name in there]
        if self._places is not None or len(kept) < len(old):
            self._places = array("Q", [places[index] for index in kept])
            self._places.extend(range(self._next, self._next + len(new)))
        self._next += len(new)
        self.names = taken = [*(old[index] for index in kept), *new]
        return taken

    def shown(self, offset: int) -> Iterator[tuple[int, bytes, int]]:
        """What a reader at a cookie is still to see, after the dots: (index, name, cookie of the next)."""
        names, places, start = self.names or [], self._places, max(offset - 2, 0)
        if places is None:
            for index in range(start, len(names)):
                yield index, names[index], index + 3
        else:
            for index in range(bisect_left(places, start), len(names)):
                yield index, names[index], places[index] + 3

    def snapshot(self, fs: OverlayFs, *, rewind: bool) -> Names:
        """The names from the beginning; may raise `Wait`."""
        names = self.names
        if names is not None and (self.fresh or not rewind):
            self.fresh = False
            return names
        if self.pending is not None:
            raise Wait(self.pending)
        directory = self.directory
        if fs.trust and (directory.merged or directory.index is not None):
            return self.take(index_of(fs, directory).names())
        if directory.merged:
            # Layers may change underneath: list them afresh.
            perform(IndexTask(fs, directory))
            assert directory.index is not None
            names = self.take(directory.index.names())
            directory.index = None
            return names
        listing = SnapshotTask(fs, self)
        if listing.is_slow:
            self.pending = listing
            raise Wait(listing)
        perform(listing)
        self.fresh = False
        assert self.names is not None
        return self.names
