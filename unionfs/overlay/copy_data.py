"""Copying a file's data between two descriptors: shared where the filesystem can, holes kept, in any thread.

Knows nothing but the two descriptors.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable

from unionfs.linux.syscalls import FICLONE

INLINE = 128 * 1024
"""Up to this many bytes may be copied at once: a worker would cost more."""

_CHUNK = 16 * 1024 * 1024
"""How much the kernel copies in one call: slow work reports its progress that often."""
_BUFFER = 1024 * 1024
# What a kernel or filesystem answers that cannot do it for this pair; everything else is a true error.
_CANNOT = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.ETXTBSY)
)


def copy_data(
    source: int, target: int, size: int, *, clone: bool = True, note: Callable[[int], None] | None = None
) -> bool:
    """Make the empty *target* hold the first *size* bytes of *source*; returns whether they share them now.

    By FICLONE (unless *clone* is False), else copy_file_range, else read and write; holes stay holes. A
    source that is shorter than *size* leaves a hole at the end. *note* is called with the offset that it has
    come to, now and then. Raises OSError, ENOSPC among them.
    """
    if size == 0:
        return False
    if clone:
        try:
            fcntl.ioctl(target, FICLONE, source)
            if os.fstat(target).st_size != size:
                os.ftruncate(target, size)
            return True
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    at = filled = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
            end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno not in _CANNOT:
                raise
            start, end = at, size
        if start >= size:
            break
        filled = _copy_range(source, target, start, end, note)
        at = end
    if filled < size:
        os.ftruncate(target, size)
    return False


def _copy_range(source: int, target: int, start: int, end: int, note: Callable[[int], None] | None) -> int:
    """Copy what lies between two offsets; returns how far it came, for the source may be shorter by now."""
    at = start
    while at < end:
        try:
            done = os.copy_file_range(source, target, min(end - at, _CHUNK), at, at)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            break
        if done == 0:
            break
        at += done
        if note is not None:
            note(at)
    while at < end:
        data = os.pread(source, min(end - at, _BUFFER), at)
        if not data:
            break
        view = memoryview(data)
        while view:
            written = os.pwrite(target, view, at)
            at += written
            view = view[written:]
        if note is not None:
            note(at)
    return at
