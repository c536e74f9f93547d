"""Readahead across files: when files of one directory are opened one after the other, the next ones are read.

The kernel reads ahead inside a file only. A walk through many small files that are not in the page cache
(`grep -r`, a build, an interpreter that starts) waits for the disk once a file. Here workers read the next
files into the page cache while the caller processes this one. It is a hint: nothing depends on it, and a
failure has no effect.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from unionfs.overlay.inode import Directory, File
from unionfs.transport.direct.server import Server

_STREAK = 3
"""So many files read from the disk in the order of their directory count as a walk."""
_BATCH = 8


class SiblingReadahead:
    """The one walk that is followed. State thread only."""

    __slots__ = ("_expected", "_length", "_pool", "_streak", "_upcoming", "_was_right")

    def __init__(self, pool: ThreadPoolExecutor, length: int) -> None:
        """*pool* reads; of each file the first *length* bytes."""
        self._pool = pool
        self._length = length
        self._streak = 0
        self._was_right = False
        # Files that are being read, or that should be opened next while the streak is counted.
        self._expected: deque[File] = deque()
        self._upcoming: Iterator[File] = iter(())

    def opened(self, inode: File, *, cold: bool) -> None:
        """A lower file is opened of which the kernel has no data; *cold*: nor has its layer's page cache."""
        expected = self._expected
        if expected and inode in expected:
            while expected.popleft() is not inode:
                pass  # a file that the walk skipped
            self._streak += 1
            self._was_right = True
        elif cold:
            self._follow(inode)
        else:
            return
        if len(expected) <= _BATCH // 2:
            files = list(itertools.islice(self._upcoming, _BATCH))
            expected.extend(files)
            if self._streak >= _STREAK:
                self._read(files)

    def _follow(self, inode: File) -> None:
        """A walk may begin with this file, or continue with the next directory."""
        self._streak = _STREAK if self._was_right and self._streak >= _STREAK else 1
        self._was_right = False
        self._expected.clear()
        # A file without a name has no siblings.
        self._upcoming = iter(()) if inode.parent is None else _lower_files(inode.parent, inode.name)

    def _read(self, files: list[File]) -> None:
        """Have a worker read them, through descriptors of its own."""
        if not files:
            return
        by_directory: dict[int, list[bytes]] = {}
        for inode in files:
            directory, name = inode.real()
            by_directory.setdefault(directory.open(), []).append(name)
        Server.submit(
            self._pool, read_ahead, [(os.dup(fd), names) for fd, names in by_directory.items()], self._length
        )


def _lower_files(directory: Directory, after: bytes) -> Iterator[File]:
    """Of the known names that follow *after*, the regular files whose data is in a lower."""
    names = iter(list(directory.children))
    for name in names:
        if name == after:
            break
    for name in names:
        child = directory.children.get(name)
        if isinstance(child, File) and stat.S_ISREG(child.mode) and not child.on_upper:
            yield child


def read_ahead(directories: list[tuple[int, list[bytes]]], length: int) -> None:
    """Read the first bytes of files in *directories* into the page cache, and close these; any thread."""
    for directory, names in directories:
        try:
            for name in names:
                read_beginning(directory, name, length)
        finally:
            os.close(directory)


def read_beginning(directory: int, name: bytes, length: int) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return  # the caller's open will report it
    try:
        os.posix_fadvise(fd, 0, length, os.POSIX_FADV_WILLNEED)
    except OSError:
        pass  # ESPIPE: not a regular file any more
    finally:
        os.close(fd)
