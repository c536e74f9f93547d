"""Extended attributes of a name in a directory that is open: listxattrat(2) and getxattrat(2), of Linux 6.13.

On older kernels a path through /proc is used, which costs twice as much. Symlinks are never followed. Plain
functions; nothing here may know what an attribute means.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_NR_GETXATTRAT = 464
_NR_LISTXATTRAT = 465
_AT_SYMLINK_NOFOLLOW = 0x100

_FIRST_SIZE = 256
"""Bytes in which nearly every value or list fits; for a larger one a further call returns the size."""

_list_prototype = ctypes.CFUNCTYPE(
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_size_t,
    use_errno=True,
)
_get_prototype = ctypes.CFUNCTYPE(
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    use_errno=True,
)
_libc = ctypes.CDLL(None)
_list = _list_prototype(("syscall", _libc))
_get = _get_prototype(("syscall", _libc))

_XATTR_ARGS = struct.Struct("=QII")
"""`struct xattr_args`: address of the value, its size, flags."""


def _supported() -> bool:
    """Whether the kernel has the calls: then EBADF for the descriptor, else ENOSYS."""
    return _list(_NR_LISTXATTRAT, -1, b"x", 0, None, 0) < 0 and ctypes.get_errno() == errno.EBADF


has_xattrat = _supported()


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def list_at(dirfd: int, name: bytes, *, likely: bool = False) -> list[str]:
    """The names of the attributes of *name*, as `os.listxattr` gives them; one call if there are none.

    If there are *likely* some, one call as well.
    """
    if not has_xattrat:
        return os.listxattr(b"/proc/self/fd/%d/%s" % (dirfd, name), follow_symlinks=False)
    size = _FIRST_SIZE
    if not likely:
        size = _list(_NR_LISTXATTRAT, dirfd, name, _AT_SYMLINK_NOFOLLOW, None, 0)
    while size > 0:
        buffer = ctypes.create_string_buffer(size)
        done: int = _list(_NR_LISTXATTRAT, dirfd, name, _AT_SYMLINK_NOFOLLOW, buffer, size)
        if done >= 0:
            return [os.fsdecode(part) for part in buffer.raw[:done].split(b"\0")[:-1]]
        if ctypes.get_errno() != errno.ERANGE:
            raise _last_error()
        size = _list(_NR_LISTXATTRAT, dirfd, name, _AT_SYMLINK_NOFOLLOW, None, 0)
    if size < 0:
        raise _last_error()
    return []


def get_at(dirfd: int, name: bytes, attribute: bytes) -> bytes | None:
    """The value of an attribute of *name*; None where it is not set (ENODATA)."""
    if not has_xattrat:
        try:
            return os.getxattr(b"/proc/self/fd/%d/%s" % (dirfd, name), attribute, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise
    size = _FIRST_SIZE
    while True:
        buffer = ctypes.create_string_buffer(size)
        arguments = _XATTR_ARGS.pack(ctypes.addressof(buffer), size, 0)
        done: int = _get(
            _NR_GETXATTRAT, dirfd, name, _AT_SYMLINK_NOFOLLOW, attribute, arguments, len(arguments)
        )
        if done >= 0:
            return buffer.raw[:done]
        code = ctypes.get_errno()
        if code == errno.ENODATA:
            return None
        if code != errno.ERANGE:
            raise _last_error()
        arguments = _XATTR_ARGS.pack(0, 0, 0)
        size = _get(_NR_GETXATTRAT, dirfd, name, _AT_SYMLINK_NOFOLLOW, attribute, arguments, len(arguments))
        if size < 0:
            raise _last_error()
