"""Files that the kernel opens without a request: one descriptor an inode, opened when data is first wanted.

Where there is no passthrough, OPEN is answered ENOSYS (FUSE_NO_OPEN_SUPPORT): reading what is in the kernel's
cache then takes no request at all, and a lower file is copied up by the first WRITE instead of by the open.
A descriptor is kept until the kernel forgets the inode, or until there are too many of them.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict

from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.super import Union

_MAX_FILES = 1024
"""Descriptors that are kept open where the limit allows them; pinned ones come on top."""


class NoOpenFiles:
    """Open files by inode number, the least recently used first."""

    __slots__ = ("_files", "_max_files", "_own", "_pins", "_union")

    def __init__(self, union: Union) -> None:
        self._union = union
        # Directories have another quarter of what the daemon may have open.
        self._max_files = min(_MAX_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._pins: dict[OpenFile, int] = {}
        self._own = Caller(os.geteuid(), os.getegid(), os.getpid(), 0)

    def __len__(self) -> int:
        return len(self._files)

    def get(self, ino: int, *, writes: bool) -> OpenFile:
        """The open file of an inode. May raise `Wait` where *writes* copies up."""
        files = self._files
        file = files.get(ino)
        if file is not None:
            if file.writable or not writes:
                files.move_to_end(ino)
                return file
            # Copied up first: what may raise `Wait` must come before anything is closed.
            self._union.copy_up(ino)
            self._drop(ino)
        file = self._union.open_granted(ino, self._own, writes=writes)
        self.add(file)
        return file

    def add(self, file: OpenFile) -> None:
        """Keep a file that was created just now."""
        self._files[file.inode.ino] = file
        if len(self._files) > self._max_files:
            self._drop(next(iter(self._files)))

    def pin(self, file: OpenFile) -> None:
        """A worker is about to use the descriptor."""
        self._pins[file] = self._pins.get(file, 0) + 1

    def unpin(self, file: OpenFile) -> None:
        """The worker is done; the union's lock is held."""
        left = self._pins.pop(file) - 1
        if left:
            self._pins[file] = left
        elif self._files.get(file.inode.ino) is not file:
            self._union.release(file)

    def forget(self, ino: int) -> None:
        """The kernel has dropped lookups of the inode, perhaps the last."""
        if ino in self._files:
            self._drop(ino)

    def _drop(self, ino: int) -> None:
        file = self._files.pop(ino)
        if file not in self._pins:
            self._union.release(file)

    def close(self) -> None:
        for ino in list(self._files):
            self._drop(ino)
