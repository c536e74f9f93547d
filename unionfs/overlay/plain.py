"""Listings of names, numbers and types without looking anything up, for who does not ask for attributes.

A number in a listing must be the one that stat(2) gives. For most objects it is told by the real directory
that has them: those of lowers keep their own, and so do those of an upper directory that is not marked as
impure. Where it is not (a directory or a copy in upper, two objects that claim one number, a filesystem whose
listings may say something else) the name is looked up after all.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator

from unionfs.linux import fs as linux
from unionfs.overlay.access import listing_fd
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import RealDir
from unionfs.overlay.namei import lookup
from unionfs.overlay.readdir import SLOW_SIZE, DirHandle, Names
from unionfs.overlay.wait import Wait, perform

Plain = tuple[bytes, int, int, int]
"""Name, number, type (DT_*), cookie of the next."""

_DT_UNKNOWN, _DT_DIR, _DT_REG, _DT_LNK = 0, 4, 8, 10

_BTRFS = 0x9123683E
_TRUE = frozenset((0xEF53, 0x58465342, 0x01021994, 0xF2F52010, 0x73717368, 0xE0F5E1E2, _BTRFS))
"""f_type of ext4, XFS, tmpfs, F2FS, SquashFS, EROFS and btrfs: their listings say `st_ino`. The root of a
btrfs subvolume is the exception."""


class Numbers:
    """By index in the listing: the inode number in the real filesystem, which one that is, and the type.

    The type is _DT_UNKNOWN where only a lookup can tell.
    """

    __slots__ = ("devices", "inos", "kinds", "sources")

    def __init__(self, count: int, devices: list[int]) -> None:
        self.inos = array("Q", bytes(8 * count))
        self.sources = array("H", bytes(2 * count))
        self.kinds = bytearray(count)
        self.devices = devices


class NumbersTask:
    """Reading the numbers of all names that a listing has; the reading itself runs anywhere."""

    __slots__ = ("_dirs", "_handle", "_names", "_numbers")

    def __init__(self, fs: OverlayFs, handle: DirHandle, names: Names) -> None:
        self._handle = handle
        self._names = names
        self._numbers: Numbers | None = None
        # Descriptor, device, whether files and whether directories have numbers of their own there.
        self._dirs: list[tuple[int, int, bool, bool]] = []
        try:
            for real in handle.directory.real_dirs():
                self._dirs.append(_open(fs, handle.directory, real))
        except BaseException:
            self._close()
            raise

    @property
    def is_slow(self) -> bool:
        return any(os.fstat(fd).st_size >= SLOW_SIZE for fd, *_ in self._dirs)

    def run(self) -> None:
        names = self._names
        places = {name: place for place, name in enumerate(names)}
        numbers = self._numbers = Numbers(len(names), [device for _, device, _, _ in self._dirs])
        inos, sources, kinds = numbers.inos, numbers.sources, numbers.kinds
        for source, (fd, _, files, directories) in enumerate(self._dirs):
            with os.scandir(b"/proc/self/fd/%d" % fd) as entries:
                for entry in entries:
                    # What a layer has, those below no longer tell.
                    place = places.pop(entry.name, None)
                    if place is None:
                        continue
                    if entry.is_file(follow_symlinks=False):
                        kind = _DT_REG if files else _DT_UNKNOWN
                    elif entry.is_dir(follow_symlinks=False):
                        kind = _DT_DIR if directories else _DT_UNKNOWN
                    elif entry.is_symlink():
                        kind = _DT_LNK if files else _DT_UNKNOWN
                    else:
                        kind = _DT_UNKNOWN
                    kinds[place] = kind
                    sources[place] = source
                    inos[place] = entry.inode()

    def finish(self, error: BaseException | None) -> None:
        self._close()
        handle = self._handle
        if handle.pending is self:
            handle.pending = None
        if error is None and handle.names is self._names:
            handle.numbers = self._numbers

    def _close(self) -> None:
        for fd, *_ in self._dirs:
            os.close(fd)
        self._dirs = []


def _open(fs: OverlayFs, directory: Directory, real: RealDir) -> tuple[int, int, bool, bool]:
    fd = listing_fd(fs, real)
    try:
        kind = linux.filesystem_type(fd)
        files = directories = kind in _TRUE
        if real.layer.is_upper:
            # A directory of upper may have its number from below by a redirect, or by its mere name.
            directories = False
            files = files and not directory.merged and not _is_impure(fs, directory, fd)
        return fd, os.fstat(fd).st_dev, files, directories and kind != _BTRFS
    except BaseException:
        os.close(fd)
        raise


def _is_impure(fs: OverlayFs, directory: Directory, fd: int) -> bool:
    """Whether an upper directory may hold what has come up, and keeps its number from below."""
    return (
        directory.impure
        or fs.format.read(b"/proc/self/fd/%d" % fd, fs.format.impure, follow=True) is not None
    )


def numbers_of(fs: OverlayFs, handle: DirHandle, names: Names) -> Numbers:
    """The numbers of a listing; may raise `Wait`."""
    if handle.numbers is None:
        if handle.pending is not None:
            raise Wait(handle.pending)
        task = NumbersTask(fs, handle, names)
        if task.is_slow:
            handle.pending = task
            handle.fresh = True  # the names are those of this reading when it comes again
            raise Wait(task)
        perform(task)
    assert handle.numbers is not None
    return handle.numbers


def entries(fs: OverlayFs, handle: DirHandle, numbers: Numbers, offset: int) -> Iterator[Plain]:
    """What a listing shows from a cookie on."""
    directory = handle.directory
    if offset == 0:
        yield b".", directory.ino, _DT_DIR, 1
    if offset <= 1:
        yield b"..", (directory.parent or directory).ino, _DT_DIR, 2
    table, children, kinds = fs.table, directory.children, numbers.kinds
    number_of = table.numbers.of
    for index, name, cookie in handle.shown(offset):
        kind = kinds[index]
        if fs.trust:
            child = children.get(name)
            if child is not None:
                yield name, child.ino, stat.S_IFMT(child.mode) >> 12, cookie
                continue
            if kind:
                number = number_of(numbers.devices[numbers.sources[index]], numbers.inos[index])
                if table.get(number) is None:
                    yield name, number, kind, cookie
                    continue
        try:
            entry = lookup(fs, directory, name)
        except OSError:
            yield name, table.numbers.allocate(), _DT_UNKNOWN, cookie
        else:
            if entry is not None:
                inode = entry[0]
                shown = name, inode.ino, stat.S_IFMT(inode.mode) >> 12, cookie
                table.drop_if_unused(inode)
                yield shown
