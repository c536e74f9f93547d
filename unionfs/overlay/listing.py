"""What an open directory serves: its names, each at a place of its own, with the numbers and types they have.

The names are those that the directory had when the listing began. The numbers (`d_ino`) and types come from
the real directories' own entries, as far as these are what stat(2) says of the object; a number of 0 says
that the name must be looked up for it. Nothing here looks a name up.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Sequence

from unionfs.overlay import purity
from unionfs.overlay.dir_cache import ALONE, DirCache, NameChanges
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import ROOT_INO, Directory
from unionfs.overlay.readdir import DT_DIR, DT_REG, CacheTask, Scan, Source
from unionfs.overlay.wait import Wait, perform

FIRST_COOKIE = 3
"""The cookie of the first name; 1 is that of ".", 2 that of "..". A reading goes on behind a cookie."""


def watch(directory: Directory) -> NameChanges:
    """Have changes of names in a directory noted from now on."""
    changes = NameChanges()
    directory.listed = (*directory.listed, changes)
    return changes


def unwatch(directory: Directory, changes: NameChanges) -> None:
    """Stop noting them here."""
    directory.listed = tuple(each for each in directory.listed if each is not changes)


class Listing:
    """Names with their numbers and types, by place. Never changed once it is made.

    One made of a cache has the names alone: then `numbers` is None.
    """

    __slots__ = ("kinds", "names", "numbers")

    def __init__(self, names: list[bytes], numbers: Sequence[int] | None = None, kinds: bytes = b"") -> None:
        self.names = names
        self.numbers = numbers
        self.kinds = kinds


class DirHandle:
    """An open directory, for one reader or for several that share it.

    A cookie stays a name's own for as long as the handle lives: a rewind takes a new listing, in which names
    that stay are where they were, and names that have come stand at the end. Names that go meanwhile are left
    out, names that come are not shown before a rewind: POSIX leaves both open.
    """

    __slots__ = ("_next", "changes", "cookies", "directory", "fresh", "listing", "pending")

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.listing: Listing | None = None
        self.cookies: Sequence[int] = ()
        self.changes = NameChanges()
        self.pending: ListTask | None = None
        # The listing is that of the reading that is about to begin.
        self.fresh = False
        self._next = FIRST_COOKIE

    def close(self) -> None:
        """Stop noting changes. The maker of the handle calls this."""
        unwatch(self.directory, self.changes)

    def ready(self, fs: OverlayFs, *, rewind: bool, numbers: bool) -> Listing:
        """The listing; at a rewind one of now. May raise `Wait`."""
        listing = self.listing
        # Where the layers change underneath, it is not known whether something has.
        current = not rewind or self.fresh or (fs.layers_static and not self.changes)
        if listing is not None and current and not (numbers and listing.numbers is None):
            self.fresh = False
            return listing
        if self.pending is not None:
            raise Wait(self.pending)
        directory = self.directory
        cache = directory.cache if fs.layers_static else None
        if cache is not None and not numbers and not purity.may_be_pure(fs, directory):
            self.take(Listing(cache.names()), watch(directory))
        else:
            makes_cache = cache is None and directory.merged and fs.layers_static
            if makes_cache and directory.pending is not None:
                raise Wait(directory.pending)
            task = ListTask(fs, self, makes_cache=makes_cache)
            if task.is_slow:
                self.pending = task
                if makes_cache:
                    directory.pending = task
                raise task.wait()
            perform(task)
        self.fresh = False
        assert self.listing is not None
        return self.listing

    def take(self, listing: Listing, changes: NameChanges) -> None:
        """Serve this listing from now on; *changes* have been noted since it began."""
        unwatch(self.directory, self.changes)
        self.changes = changes
        self.fresh = True
        old = self.listing
        names = listing.names
        if old is None:
            self.cookies = range(self._next, self._next + len(names))
            self._next += len(names)
        elif old.names != names:
            listing = self._in_place(old.names, listing)
        self.listing = listing

    def _in_place(self, old: list[bytes], new: Listing) -> Listing:
        """The new listing with every name that stays where it was."""
        coming = {name: place for place, name in enumerate(new.names)}
        order: list[int] = []
        cookies = array("Q")
        for name, cookie in zip(old, self.cookies, strict=True):
            place = coming.pop(name, None)
            if place is not None:
                order.append(place)
                cookies.append(cookie)
        order += coming.values()
        cookies.extend(range(self._next, self._next + len(coming)))
        self._next += len(coming)
        self.cookies = cookies
        names, numbers, kinds = new.names, new.numbers, new.kinds
        kept = Listing([names[place] for place in order])
        if numbers is not None:
            kept.numbers = array("Q", [numbers[place] for place in order])
            kept.kinds = bytes([kinds[place] for place in order])
        return kept


class ListTask(CacheTask):
    """Listing the layers of a directory for a handle, and for its cache if it has none yet."""

    __slots__ = ("_handle", "_listing", "_makes_cache", "_may_be_pure", "_noted", "_pure", "_union_numbers")

    def __init__(self, fs: OverlayFs, handle: DirHandle, *, makes_cache: bool) -> None:
        super().__init__(fs, handle.directory)
        self._handle = handle
        self._makes_cache = makes_cache
        self._listing: Listing | None = None
        try:
            self._union_numbers = [
                _UnionNumbers(fs, handle.directory, source) for source in self._sources.opened
            ]
        except BaseException:
            self._sources.close()
            raise
        # After these: they read the mark.
        self._may_be_pure = purity.may_be_pure(fs, handle.directory)
        self._pure = False
        self._noted = watch(handle.directory)

    def run(self) -> None:
        scans = self._scan()
        if self._may_be_pure:
            self._pure = purity.is_pure(self._fs, self._sources.opened[0].fd, scans[0].names)
        numbers = [each.numbers(found) for each, found in zip(self._union_numbers, scans, strict=True)]
        if len(scans) > 1:
            self._cache = self._sources.cache(scans)
            self._listing = _merge(self._cache, scans, numbers, self._sources.opened[0].real.layer.is_upper)
        else:
            self._listing = Listing(scans[0].names, array("Q", numbers[0]), bytes(scans[0].kinds))

    def finish(self, error: BaseException | None) -> None:
        handle = self._handle
        handle.pending = None
        if error is None and self._pure and not self._noted:
            purity.unmark(self._fs, handle.directory)
        if error is None and self._listing is not None:
            handle.take(self._listing, self._noted)
        else:
            unwatch(handle.directory, self._noted)
        if self._makes_cache:
            super().finish(error)
        else:
            self._fs.under_way.end(self.progress)
            self._sources.close()


class _UnionNumbers:
    """Turns the d_ino of a real directory into the union's numbers, where stat(2) says the same."""

    __slots__ = ("_dirs", "_files", "_high", "_largest", "_looks_up_files")

    def __init__(self, fs: OverlayFs, directory: Directory, source: Source) -> None:
        layer = source.real.layer
        self._high = fs.table.numbers.high_bits(os.fstat(source.fd).st_dev)
        self._largest = fs.table.numbers.limit - 1
        self._files = layer.numbers_listed and not (layer.is_upper and _is_impure(fs, directory, source.fd))
        self._dirs = self._files and layer.dir_numbers_listed
        # What a regular file stands for, only a lookup says.
        self._looks_up_files = bool(layer.stat_xattrs)

    def numbers(self, found: Scan) -> list[int]:
        """The union's numbers, 0 for one that must be looked up; any thread."""
        high = self._high
        if high is None or not self._files or not found.numbers:
            return [0] * len(found.names)
        numbers = found.numbers
        largest = self._largest
        if min(numbers) <= ROOT_INO or max(numbers) > largest:
            numbers = [number if ROOT_INO < number <= largest else 0 for number in numbers]
        if high:
            numbers = [number and number | high for number in numbers]
        if not self._dirs and DT_DIR in found.kinds:
            kinds = found.kinds
            numbers = [0 if kind == DT_DIR else number for number, kind in zip(numbers, kinds, strict=True)]
        if self._looks_up_files:
            kinds = found.kinds
            numbers = [0 if kind == DT_REG else number for number, kind in zip(numbers, kinds, strict=True)]
        return numbers


def _is_impure(fs: OverlayFs, directory: Directory, fd: int) -> bool:
    """Whether objects that came from below are in an upper directory: they have their origins' numbers."""
    if not directory.impure:
        try:
            directory.impure = os.getxattr(fd, fs.format.impure) is not None
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                return True
    return directory.impure


def _merge(cache: DirCache, scans: list[Scan], numbers_of: list[list[int]], has_upper: bool) -> Listing:
    """What a caller sees of several layers: of each name the topmost object."""
    names: list[bytes] = []
    numbers: list[int] = []
    kinds = bytearray()
    upper, lower = cache.upper, cache.lower
    for at, (found, own) in enumerate(zip(scans, numbers_of, strict=True)):
        place = at - has_upper
        for name, number, kind in zip(found.names, own, found.kinds, strict=True):
            if place >= 0:
                if name in upper or lower[name][0] != place:
                    continue
            elif kind == DT_DIR and upper[name] != ALONE and lower.get(name, (-1,))[0] >= 0:
                number = 0  # it may merge with what is below: then it has the number of that
            names.append(name)
            numbers.append(number)
            kinds.append(kind)
    return Listing(names, array("Q", numbers), bytes(kinds))
