"""mount(2), umount2(2), pivot_root(2) and the calls on mounts by descriptor (Linux 5.2 and later).

Plain typed functions with the kernel's errno; `mount.py` has the table of mounts. Imports little: a
container's process loads this on its way to exec.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False  # that of typing, which takes long to load
if TYPE_CHECKING:
    from collections.abc import Mapping

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_REC = 1 << 14
MS_POSIXACL = 1 << 16
MS_PRIVATE = 1 << 18
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_IN_ROOT = 0x10

# Numbers that are the same on every architecture, as those of all calls since Linux 5.1.
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.mount.restype = ctypes.c_int
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.umount2.restype = ctypes.c_int
_libc.pivot_root.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.pivot_root.restype = ctypes.c_int
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """mount(2)."""
    arguments = (os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, os.fsencode(data))
    if _libc.mount(*arguments):
        raise _last_error(target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(os.fsencode(target), flags):
        raise _last_error(target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    if _libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)):
        raise _last_error(new_root)


def clone(path: str | int, *, recursive: bool = False) -> int:
    """A detached copy of what is mounted at a path, or on what a descriptor is open on (open_tree(2)).

    Like the source of a bind mount; with *recursive* the mounts below it come along. The last component of a
    path is followed. Closed on exec.
    """
    dirfd, name, flags = (
        (_AT_FDCWD, os.fsencode(path), 0) if isinstance(path, str) else (path, b"", _AT_EMPTY_PATH)
    )
    flags |= _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    call = (_NR_OPEN_TREE, ctypes.c_int(dirfd), ctypes.c_char_p(name), ctypes.c_uint(flags))
    return _checked(_syscall(*call), path if isinstance(path, str) else None)


def new_mount(fstype: str, options: Mapping[str, str | None], attributes: int) -> int:
    """A new, detached mount of a filesystem type (fsopen(2), fsmount(2)).

    Options without a value are flags; *attributes* are `MOUNT_ATTR_*`. Closed on exec.
    """
    context = _checked(
        _syscall(_NR_FSOPEN, ctypes.c_char_p(os.fsencode(fstype)), ctypes.c_uint(_FSOPEN_CLOEXEC))
    )
    try:
        _configure(context, _FSCONFIG_SET_STRING, "source", fstype)
        for key, value in options.items():
            _configure(context, _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING, key, value)
        _configure(context, _FSCONFIG_CMD_CREATE, None, None)
        call = (
            _NR_FSMOUNT,
            ctypes.c_int(context),
            ctypes.c_uint(_FSMOUNT_CLOEXEC),
            ctypes.c_uint(attributes),
        )
        return _checked(_syscall(*call))
    finally:
        os.close(context)


def _configure(context: int, command: int, key: str | None, value: str | None) -> None:
    words = (None if word is None else ctypes.c_char_p(os.fsencode(word)) for word in (key, value))
    _checked(
        _syscall(_NR_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(command), *words, ctypes.c_int(0)), key
    )


def attach(tree: int, target: int) -> None:
    """Mount a detached mount on what a descriptor (O_PATH will do) is open on (move_mount(2))."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    empty = ctypes.c_char_p(b"")
    _checked(
        _syscall(_NR_MOVE_MOUNT, ctypes.c_int(tree), empty, ctypes.c_int(target), empty, ctypes.c_uint(flags))
    )


def set_attributes(tree: int, attributes: int, *, recursive: bool = False) -> None:
    """Set attributes (`MOUNT_ATTR_*`) of the mount that a descriptor is on (mount_setattr(2), Linux 5.12)."""
    attr = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _checked(
        _syscall(
            _NR_MOUNT_SETATTR,
            ctypes.c_int(tree),
            ctypes.c_char_p(b""),
            ctypes.c_uint(flags),
            ctypes.c_char_p(attr),
            ctypes.c_size_t(len(attr)),
        )
    )


def open_in_root(root: int, path: str, flags: int) -> int:
    """openat2(2) of a path in a tree that is not trusted: *root* is its root, and no symlink is followed."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_SYMLINKS)
    call = (ctypes.c_int(root), ctypes.c_char_p(os.fsencode(path)), ctypes.c_char_p(how))
    return _checked(_syscall(_NR_OPENAT2, *call, ctypes.c_size_t(len(how))), path)


def _checked(result: int, what: str | None = None) -> int:
    if result < 0:
        raise _last_error(what)
    return result


def _last_error(what: str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
