"""Files that the kernel opens without asking: one real descriptor a node, opened when data is first wanted.

Where there is no passthrough, OPEN answers ENOSYS (FUSE_NO_OPEN_SUPPORT): reading what the kernel has in its
cache then takes no request at all, and a lower file is copied up by the first WRITE instead of by the open.
A descriptor is kept until the kernel forgets the node, or until others are wanted more.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict

from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.super import Union

_KEPT = 1024
"""Descriptors that are kept open where the limit allows them; those that a worker uses come on top."""


class NodeFiles:
    """Open files by inode number, the one used last at the end."""

    __slots__ = ("_busy", "_files", "_me", "_most", "_union")

    def __init__(self, union: Union) -> None:
        self._union = union
        # Directories have another quarter of what the daemon may have open.
        self._most = min(_KEPT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._busy: dict[OpenFile, int] = {}
        self._me = Caller(os.geteuid(), os.getegid(), os.getpid(), 0)

    def __len__(self) -> int:
        return len(self._files)

    def of(self, ino: int, *, writes: bool) -> OpenFile:
        """The open file of a node. May raise `Wait` where *writes* copies up."""
        files = self._files
        file = files.get(ino)
        if file is not None:
            if file.writable or not writes:
                files.move_to_end(ino)
                return file
            # Copied up first: what may wait must come before anything is let go of.
            self._union.copy_up(ino)
            self._drop(ino)
        file = self._union.open_granted(ino, self._me, writes=writes)
        self.add(file)
        return file

    def add(self, file: OpenFile) -> None:
        """Keep a file that was made just now, with its node."""
        self._files[file.inode.ino] = file
        if len(self._files) > self._most:
            self._drop(next(iter(self._files)))

    def hold(self, file: OpenFile) -> None:
        """A worker is about to use the descriptor."""
        self._busy[file] = self._busy.get(file, 0) + 1

    def let_go(self, file: OpenFile) -> None:
        """The worker is done; the union's lock is held."""
        left = self._busy.pop(file) - 1
        if left:
            self._busy[file] = left
        elif self._files.get(file.inode.ino) is not file:
            self._union.release(file)

    def forget(self, ino: int) -> None:
        """The kernel has no use for the node's data any more, or may have none."""
        if ino in self._files:
            self._drop(ino)

    def _drop(self, ino: int) -> None:
        file = self._files.pop(ino)
        if file not in self._busy:
            self._union.release(file)

    def close(self) -> None:
        for ino in list(self._files):
            self._drop(ino)
