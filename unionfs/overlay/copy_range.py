"""copy_file_range(2) between two open files: shared where the filesystem can, else copied by the kernel.

`prepare` runs on the state thread and gives a job for any thread, for a long copy takes seconds. An EXDEV or
EOPNOTSUPP reaches the caller as it is: fuse.ko then copies through its cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Callable

from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.priv import drop_set_ids
from unionfs.overlay.protect import check_writable

_FICLONERANGE = 0x4020940D
_MOST = 16 << 20
"""Bytes that one call copies; what can be shared costs nothing, however long."""


def prepare(
    fs: OverlayFs,
    source: OpenFile,
    in_offset: int,
    target: OpenFile,
    out_offset: int,
    length: int,
    caller: Caller | None,
) -> Callable[[], int]:
    """Get ready to copy; the job returns how many bytes it has copied, 0 at the end of the source.

    The handles must stay open until the job has ended. May copy less than was asked for, as the call may.
    """
    if not target.writable:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    check_writable(fs, target.inode)
    source.follow_copy_up()
    drop_set_ids(target.inode, caller or target.caller)
    return _Job(source.fd, in_offset, target.fd, out_offset, length)


class _Job:
    __slots__ = ("_in_offset", "_length", "_out_offset", "_source", "_target")

    def __init__(self, source: int, in_offset: int, target: int, out_offset: int, length: int) -> None:
        self._source = source
        self._in_offset = in_offset
        self._target = target
        self._out_offset = out_offset
        self._length = length

    def __call__(self) -> int:
        if self._length > _MOST:
            shared = self._share()
            if shared:
                return shared
        length = min(self._length, _MOST)
        return os.copy_file_range(self._source, self._target, length, self._in_offset, self._out_offset)

    def _share(self) -> int:
        """Reflink all of it at once; 0 where that cannot be."""
        length = min(self._length, os.fstat(self._source).st_size - self._in_offset)
        if length <= 0:
            return 0
        clone = struct.pack("=qQQQ", self._source, self._in_offset, length, self._out_offset)
        # Whatever is wrong (unaligned, another filesystem, no such feature), the plain copy says it.
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._target, _FICLONERANGE, clone)
            return length
        return 0
