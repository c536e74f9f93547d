"""File-system calls that Python's `os` lacks, as plain typed functions over libc.

Every function raises `OSError` with the errno of the call. Nothing here may know what a union is, keep
state, or retry: callers get exactly the kernel's result.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys

# `use_errno` saves each thread's errno before other code of the interpreter can change it.
_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_RELATIME = 0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR__ATIME = 0x70
_MS_PRIVATE = 1 << 18

# System call numbers that are the same on every architecture (all calls since Linux 5.1 are).
_NR_OPEN_TREE = 428
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_NR_FCHMODAT2 = 452

_RESOLVE_NO_SYMLINKS = 0x04

FICLONE = 0x40049409
_FS_IOC_GETFSUUID = 0x80111500
_EXT4_IOC_GETFSUUID = 0x8008662C
_XFS_IOC_FSGEOMETRY_V1 = 0x80705864
_BTRFS_IOC_FS_INFO = 0x8400941F

_renameat2 = _libc.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fstatfs = _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)
_setfsuid = _libc.setfsuid
_setfsuid.argtypes = (ctypes.c_uint32,)
_setfsgid = _libc.setfsgid
_setfsgid.argtypes = (ctypes.c_uint32,)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_name_to_handle_at = _libc.name_to_handle_at
_open_by_handle_at = _libc.open_by_handle_at
_open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 4

_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_WRITE_AND_WAIT = 7

_MAX_HANDLE = 128


_FILE_HANDLE = struct.Struct("=Ii")
"""`struct file_handle` of open_by_handle_at(2) without its bytes: how many there are, and the type."""
_name_to_handle_at.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
)
_mount_id = ctypes.byref(ctypes.c_int())  # the call requires it; it is not used


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def renameat2(olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> None:
    """renameat2(2): `RENAME_NOREPLACE`, `RENAME_EXCHANGE` or `RENAME_WHITEOUT`."""
    if _renameat2(olddir, old, newdir, new, flags) != 0:
        raise _last_error()


def syncfs(fd: int) -> None:
    """syncfs(2): write out everything of the filesystem that *fd* lies on."""
    if _syncfs(fd) != 0:
        raise _last_error()


def write_data(fd: int) -> None:
    """sync_file_range(2): write all of a file's data and wait for that; metadata is left to the journal.

    Raises OSError for a failure to write. The disk's own cache is not flushed.
    """
    if _sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE_AND_WAIT) != 0:
        raise _last_error()


def start_writing(fd: int) -> None:
    """sync_file_range(2): begin to write a file's data. A hint: a failure is reported by the next sync."""
    _sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with any of its modes (`FALLOC_FL_*` of linux/falloc.h)."""
    if _fallocate(fd, mode, offset, length) != 0:
        raise _last_error()


def filesystem_type(fd: int) -> int:
    """`f_type` of fstatfs(2): the filesystem's magic number. Works on O_PATH descriptors."""
    buffer = ctypes.create_string_buffer(512)
    if _fstatfs(fd, buffer) != 0:
        raise _last_error()
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)


_LOCAL_FILESYSTEMS = frozenset((0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x794C7630))
"""f_type of ext4, xfs, btrfs, tmpfs, f2fs and overlayfs: their close(2) reports no late error."""


def needs_flush(fd: int) -> bool:
    """Whether a close(2) of a file on the filesystem of *fd* may report an error of earlier writes."""
    return filesystem_type(fd) not in _LOCAL_FILESYSTEMS


def malloc_trim() -> None:
    """Return the C library's free memory to the system, where it is glibc."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def open_no_symlinks(path: str, flags: int) -> int:
    """Open an absolute path in which nothing is a symlink, up to the last name: ELOOP or ENOTDIR else.

    For a path that was resolved before, and in which another user may have put one since. openat2(2), and
    before Linux 5.6, or where a sandbox forbids that, one name after the other.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    fd: int = _syscall(
        ctypes.c_long(_NR_OPENAT2),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    if fd >= 0:
        return fd
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise _last_error()
    return _open_by_names(path, flags)


def _open_by_names(path: str, flags: int) -> int:
    *above, last = path.strip("/").split("/")
    at = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in above:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        return os.open(last or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def chmod_no_symlink(path: bytes, mode: int, dirfd: int = AT_FDCWD) -> None:
    """chmod(2) of what has this name now: where that is a symlink EOPNOTSUPP, and never what it leads to.

    fchmodat2(2) of Linux 6.6, before that by way of an O_PATH descriptor.
    """
    done = _syscall(
        ctypes.c_long(_NR_FCHMODAT2),
        ctypes.c_int(dirfd),
        ctypes.c_char_p(path),
        ctypes.c_uint(mode),
        ctypes.c_uint(AT_SYMLINK_NOFOLLOW),
    )
    if done == 0:
        return
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):  # EPERM: it may be a sandbox's
        raise _last_error()
    at = None if dirfd == AT_FDCWD else dirfd
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        os.chmod(b"/proc/self/fd/%d" % fd, mode)
    finally:
        os.close(fd)


def set_fs_ids(uid: int, gid: int) -> None:
    """setfsuid(2) and setfsgid(2) of the calling thread. They report no failure, by design."""
    _setfsgid(gid)
    _setfsuid(uid)


def keep_capabilities_across_fsuid() -> bool:
    """Make this thread keep its capabilities when its fsuid leaves 0 (SECBIT_NO_SETUID_FIXUP).

    Returns whether it could; it needs CAP_SETPCAP. See capabilities(7).
    """
    bits: int = _prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    if bits < 0:
        return False
    done: int = _prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    return done == 0


def name_to_handle(dirfd: int, name: bytes) -> tuple[int, bytes]:
    """name_to_handle_at(2) without following symlinks: (type, handle). An empty *name* is *dirfd* itself."""
    buffer = ctypes.create_string_buffer(_FILE_HANDLE.pack(_MAX_HANDLE, 0), _FILE_HANDLE.size + _MAX_HANDLE)
    if _name_to_handle_at(dirfd, name, buffer, _mount_id, 0 if name else AT_EMPTY_PATH) != 0:
        raise _last_error()
    raw = buffer.raw
    size, kind = _FILE_HANDLE.unpack_from(raw)
    return kind, raw[_FILE_HANDLE.size : _FILE_HANDLE.size + size]


def open_by_handle(mount_fd: int, handle_type: int, handle: bytes, flags: int) -> int:
    """open_by_handle_at(2); needs CAP_DAC_READ_SEARCH. *mount_fd* must not be an O_PATH descriptor."""
    if len(handle) > _MAX_HANDLE:
        raise OSError(errno.EINVAL, "file handle too long")
    arg = _FILE_HANDLE.pack(len(handle), handle_type) + handle
    fd: int = _open_by_handle_at(mount_fd, arg, flags | os.O_CLOEXEC)
    if fd < 0:
        raise _last_error()
    return fd


def clone_tree(directory: int, *, read_only: bool) -> int:
    """A private, detached copy of a directory's mount from there on, without the mounts below it.

    As overlayfs's own clone_private_mount(): what is mounted over the layer, before or later, is not visible
    through it. With *read_only* the kernel itself refuses writes through it, and reads set no atime.
    Needs CAP_SYS_ADMIN over the mount namespace.
    """
    fd: int = _syscall(
        ctypes.c_long(_NR_OPEN_TREE),
        ctypes.c_int(directory),
        ctypes.c_char_p(b""),
        ctypes.c_uint(OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH),
    )
    if fd < 0:
        raise _last_error()
    try:
        if read_only:
            _set_mount(fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME)
        else:
            # A copy of a shared mount is its peer, into which later mounts would propagate.
            _set_mount(fd, 0, 0, propagation=_MS_PRIVATE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def set_access_times(tree: int, attributes: int) -> None:
    """Set how reads through a clone, by its own descriptor, update access times (`MOUNT_ATTR_*`).

    EPERM: the mount comes from a more privileged mount namespace, which has locked these flags.
    """
    _set_mount(tree, attributes, MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME)


def _set_mount(tree: int, put: int, clear: int, *, propagation: int = 0) -> None:
    """mount_setattr(2)."""
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attr = struct.pack("=QQQQ", put, clear, propagation, 0)
    done = _syscall(
        ctypes.c_long(_NR_MOUNT_SETATTR),
        ctypes.c_int(tree),
        ctypes.c_char_p(b""),
        ctypes.c_uint(AT_EMPTY_PATH),
        ctypes.c_char_p(attr),
        ctypes.c_size_t(len(attr)),
    )
    if done < 0:
        raise _last_error()


def xfs_is_one_device(fd: int) -> bool:
    """Whether an XFS has no realtime section, which would be on a device that the log does not flush."""
    buffer = bytearray(112)
    fcntl.ioctl(fd, _XFS_IOC_FSGEOMETRY_V1, buffer)
    realtime_blocks: int = struct.unpack_from("=Q", buffer, 40)[0]
    return realtime_blocks == 0


def fs_uuid(fd: int) -> bytes | None:
    """The 16 bytes that the kernel holds as the filesystem's `s_uuid`, or None where it has no call for it.

    Since Linux 6.9 every filesystem supports FS_IOC_GETFSUUID; before that ext4, xfs and btrfs have calls
    of their own.
    """
    for request, size, start in (
        (_FS_IOC_GETFSUUID, 17, 1),
        (_EXT4_IOC_GETFSUUID, 24, 8),
        (_XFS_IOC_FSGEOMETRY_V1, 112, 64),
        (_BTRFS_IOC_FS_INFO, 1024, 16),
    ):
        buffer = bytearray(size)
        if request == _EXT4_IOC_GETFSUUID:
            struct.pack_into("=I", buffer, 0, 16)
        try:
            fcntl.ioctl(fd, request, buffer)
        except OSError:
            continue  # not supported by this filesystem
        return bytes(buffer[start : start + 16])
    return None
