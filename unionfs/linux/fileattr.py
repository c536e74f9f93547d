"""Inode attributes beyond stat(2): statx(2), and the flags that chattr(1) sets.

Plain typed functions over libc that raise `OSError` with the errno of the call. Nothing here may know what a
union is or which flag means what to it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100

STATX_BTIME = 0x800
STATX_ATTR_IMMUTABLE = 0x10
STATX_ATTR_APPEND = 0x20

FS_SYNC_FL = 0x08
FS_IMMUTABLE_FL = 0x10
FS_APPEND_FL = 0x20
FS_NOATIME_FL = 0x80
FS_FL_USER_MODIFIABLE = 0x000380FF

FS_XFLAG_IMMUTABLE = 0x08
FS_XFLAG_APPEND = 0x10

# The ioctls whose argument is a long in the headers and an int in every kernel.
_LONG = ctypes.sizeof(ctypes.c_long) << 16
FS_IOC_GETFLAGS = 0x80006601 | _LONG
FS_IOC_SETFLAGS = 0x40006602 | _LONG
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820

FSXATTR_SIZE = 28
"""`struct fsxattr`: xflags, extsize, nextents, projid, cowextsize, 8 bytes of padding."""

_STATX_SIZE = 256
_statx = _libc.statx
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)


class Statx(NamedTuple):
    """What statx(2) adds to stat(2). `btime` is (seconds, nanoseconds), or None where there is none."""

    btime: tuple[int, int] | None
    attributes: int
    attributes_mask: int


def statx(dirfd: int, name: bytes = b"") -> Statx:
    """statx(2), not following a symlink; an empty *name* is *dirfd* itself. Works on O_PATH descriptors."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    flags = AT_SYMLINK_NOFOLLOW if name else AT_EMPTY_PATH
    if _statx(dirfd, name, flags, STATX_BTIME, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    mask, _, attributes = struct.unpack_from("=IIQ", buffer)
    (attributes_mask,) = struct.unpack_from("=Q", buffer, 56)
    btime = struct.unpack_from("=qI", buffer, 80) if mask & STATX_BTIME else None
    return Statx(btime, attributes, attributes_mask)


def statx_attributes(dirfd: int, name: bytes = b"") -> int:
    """The `STATX_ATTR_*` attributes alone, which is quicker."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if _statx(dirfd, name, AT_SYMLINK_NOFOLLOW if name else AT_EMPTY_PATH, 0, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    attributes: int = struct.unpack_from("=Q", buffer, 8)[0]
    return attributes


def protection_of(attributes: int) -> int:
    """FS_APPEND_FL and FS_IMMUTABLE_FL, from `STATX_ATTR_*` attributes."""
    append = FS_APPEND_FL if attributes & STATX_ATTR_APPEND else 0
    return append | (FS_IMMUTABLE_FL if attributes & STATX_ATTR_IMMUTABLE else 0)


def attributes_of(protection: int) -> int:
    """The reverse of `protection_of`."""
    append = STATX_ATTR_APPEND if protection & FS_APPEND_FL else 0
    return append | (STATX_ATTR_IMMUTABLE if protection & FS_IMMUTABLE_FL else 0)


def get_flags(fd: int) -> int:
    """FS_IOC_GETFLAGS: the `FS_*_FL` flags, as lsattr(1) shows them. ENOTTY where the filesystem has none."""
    buffer = bytearray(8)
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, buffer)
    flags: int = struct.unpack_from("=I", buffer)[0]
    return flags


def set_flags(fd: int, flags: int) -> None:
    """FS_IOC_SETFLAGS."""
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("=II", flags, 0))


def get_fsxattr(fd: int) -> bytes:
    """FS_IOC_FSGETXATTR: a `struct fsxattr`."""
    buffer = bytearray(FSXATTR_SIZE)
    fcntl.ioctl(fd, FS_IOC_FSGETXATTR, buffer)
    return bytes(buffer)


def set_fsxattr(fd: int, value: bytes) -> None:
    """FS_IOC_FSSETXATTR."""
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, value)
