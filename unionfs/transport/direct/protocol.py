"""The FUSE protocol as Linux's include/uapi/linux/fuse.h lays it out: opcodes, flags, structures.

Only numbers and layouts: nothing here reads or writes the device, or knows what a reply should be. Names are
the header's, without `FUSE_` where the enclosing class says it.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

KERNEL_VERSION = 7
KERNEL_MINOR_VERSION = 45
OLDEST_MINOR_VERSION = 31
"""Linux 5.4's."""

ROOT_ID = 1
MIN_READ_BUFFER = 8192
PAGE_SIZE = 4096


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


OPCODES = 64
"""The length of a table by opcode."""


class InitFlag(IntFlag):
    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42


# --- valid bits of SETATTR ------------------------------------------------------------------------
FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_CTIME = 1 << 10
FATTR_KILL_SUIDGID = 1 << 11

# --- replies to OPEN, CREATE, OPENDIR -------------------------------------------------------------
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
FOPEN_NOFLUSH = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6
FOPEN_PASSTHROUGH = 1 << 7

# --- flags of single requests ---------------------------------------------------------------------
OPEN_KILL_SUIDGID = 1 << 0
WRITE_CACHE = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
GETATTR_FH = 1 << 0
FSYNC_FDATASYNC = 1 << 0
IOCTL_UNRESTRICTED = 1 << 1
IOCTL_DIR = 1 << 4
SETXATTR_ACL_KILL_SGID = 1 << 0

# --- extensions after the arguments of a creation -------------------------------------------------
MAX_NR_SECCTX = 31
"""An extension of this type or less holds that many security contexts."""
EXT_GROUPS = 32

# --- notifications --------------------------------------------------------------------------------
NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3
NOTIFY_STORE = 4

# --- ioctls of the device itself ------------------------------------------------------------------
DEV_IOC_BACKING_OPEN = 0x4010E501
DEV_IOC_BACKING_CLOSE = 0x4004E502

IN_HEADER = Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen (in 8 bytes), padding"""
IN_CALLER = Struct("=III")
"""uid, gid, pid: at `CALLER_AT` of a request"""
CALLER_AT = 24
BODY = IN_HEADER.size
OUT_HEADER = Struct("=IiQ")
"""len, error, unique"""

INIT_IN = Struct("=IIII")
"""major, minor, max_readahead, flags; since 7.36 flags2 and 11 unused words follow"""
INIT_FLAGS2 = Struct("=I")
INIT_OUT = Struct("=IIIIHHIIHHIIH22x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
map_alignment, flags2, max_stack_depth, request_timeout"""

_ATTR = "QQQQQQIIIIIIIIII"
ATTR_SIZE = Struct("=" + _ATTR).size
ENTRY_OUT = Struct("=QQQQII" + _ATTR)
"""nodeid, generation, entry_valid, attr_valid, their nanoseconds; ino, size, blocks, atime, mtime, ctime,
their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags"""
ATTR_OUT = Struct("=QII" + _ATTR)
"""attr_valid, its nanoseconds, padding; attr"""
OPEN_OUT = Struct("=QIi")
"""fh, open_flags, backing_id"""

GETATTR_IN = Struct("=IIQ")
"""getattr_flags, dummy, fh"""
SETATTR_IN = Struct("=IIQqQqqqIIIIIIII")
"""valid, padding, fh, size, lock_owner, atime, mtime, ctime, their nanoseconds, mode,
unused4, uid, gid, unused5"""
MKNOD_IN = Struct("=IIII")
"""mode, rdev, umask, padding"""
MKDIR_IN = Struct("=II")
"""mode, umask"""
RENAME_IN = Struct("=Q")
RENAME2_IN = Struct("=QII")
"""newdir, flags, padding"""
LINK_IN = Struct("=Q")
OPEN_IN = Struct("=II")
"""flags, open_flags"""
CREATE_IN = Struct("=IIII")
"""flags, mode, umask, open_flags"""
RELEASE_IN = Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner"""
FLUSH_IN = Struct("=QIIQ")
READ_IN = Struct("=QqIIQII")
"""fh, offset (signed here and below, as loff_t is), size, read_flags, lock_owner, flags, padding; of
READDIR too"""
WRITE_IN = Struct("=QqIIQII")
"""fh, offset, size, write_flags, lock_owner, flags, padding; the data follows"""
WRITE_OUT = Struct("=II")
STATFS_OUT = Struct("=QQQQQIIIIIIIIII")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare"""
FSYNC_IN = Struct("=QII")
"""fh, fsync_flags, padding"""
SETXATTR_IN_COMPAT = Struct("=II")
SETXATTR_IN = Struct("=IIII")
"""size, flags, setxattr_flags, padding; then the name and the value"""
GETXATTR_IN = Struct("=II")
"""size, padding; of LISTXATTR too"""
GETXATTR_OUT = Struct("=II")
INTERRUPT_IN = Struct("=Q")
FORGET_IN = Struct("=Q")
BATCH_FORGET_IN = Struct("=II")
"""count, dummy; then that many FORGET_ONE"""
FORGET_ONE = Struct("=QQ")
"""nodeid, nlookup"""
IOCTL_IN = Struct("=QIIQII")
"""fh, flags, cmd, arg, in_size, out_size"""
IOCTL_OUT = Struct("=iIII")
"""result, flags, in_iovs, out_iovs"""
FALLOCATE_IN = Struct("=QqqII")
"""fh, offset, length, mode, padding"""
LSEEK_IN = Struct("=QqII")
"""fh, offset, whence, padding"""
LSEEK_OUT = Struct("=Q")
COPY_FILE_RANGE_IN = Struct("=QqQQqQQ")
"""fh_in, off_in, nodeid_out, fh_out, off_out, len, flags"""
COPY_FILE_RANGE_OUT = Struct("=Q")
STATX_IN = Struct("=IIQII")
"""getattr_flags, reserved, fh, sx_flags, sx_mask"""
STATX_OUT = Struct("=QII16xIIQIIIHHQQQQqIiqIiqIiqIiIIII112x")
"""attr_valid, its nanoseconds, flags; then struct fuse_statx: mask, blksize, attributes, nlink, uid, gid,
mode, padding, ino, size, blocks, attributes_mask, atime, btime, ctime, mtime (each seconds, nanoseconds,
padding), rdev_major, rdev_minor, dev_major, dev_minor"""
DIRENT_FIELDS = "QQII"
DIRENT = Struct("=" + DIRENT_FIELDS)
"""ino, off, namelen, type; then the name, padded to 8 bytes"""
EXT_HEADER = Struct("=II")
"""size, type"""
SECCTX_HEADER = Struct("=II")
"""size, nr_secctx"""
SECCTX = Struct("=II")
"""size, padding; then the xattr's name and the context"""
SUPP_GROUPS = Struct("=I")
"""nr_groups; then that many gids"""

INVAL_INODE_OUT = Struct("=Qqq")
"""ino, off, len; a negative off is for the attributes alone"""
STORE_OUT = Struct("=QQII")
"""nodeid, offset, size, padding; then the data"""
INVAL_ENTRY_OUT = Struct("=QII")
"""parent, namelen, flags; then the name and a NUL"""
BACKING_MAP = Struct("=iIQ")
"""fd, flags, padding"""
U32 = Struct("=I")
"""A backing id; the flags of FS_IOC_GETFLAGS and FS_IOC_SETFLAGS"""

ARGUMENTS = {
    Opcode.FORGET: FORGET_IN,
    Opcode.GETATTR: GETATTR_IN,
    Opcode.SETATTR: SETATTR_IN,
    Opcode.MKNOD: MKNOD_IN,
    Opcode.MKDIR: MKDIR_IN,
    Opcode.RENAME: RENAME_IN,
    Opcode.LINK: LINK_IN,
    Opcode.OPEN: OPEN_IN,
    Opcode.READ: READ_IN,
    Opcode.WRITE: WRITE_IN,
    Opcode.RELEASE: RELEASE_IN,
    Opcode.FSYNC: FSYNC_IN,
    Opcode.SETXATTR: SETXATTR_IN_COMPAT,
    Opcode.GETXATTR: GETXATTR_IN,
    Opcode.LISTXATTR: GETXATTR_IN,
    Opcode.FLUSH: FLUSH_IN,
    Opcode.INIT: INIT_IN,
    Opcode.OPENDIR: OPEN_IN,
    Opcode.READDIR: READ_IN,
    Opcode.RELEASEDIR: RELEASE_IN,
    Opcode.FSYNCDIR: FSYNC_IN,
    Opcode.CREATE: CREATE_IN,
    Opcode.INTERRUPT: INTERRUPT_IN,
    Opcode.IOCTL: IOCTL_IN,
    Opcode.BATCH_FORGET: BATCH_FORGET_IN,
    Opcode.FALLOCATE: FALLOCATE_IN,
    Opcode.READDIRPLUS: READ_IN,
    Opcode.RENAME2: RENAME2_IN,
    Opcode.LSEEK: LSEEK_IN,
    Opcode.COPY_FILE_RANGE: COPY_FILE_RANGE_IN,
    Opcode.COPY_FILE_RANGE_64: COPY_FILE_RANGE_IN,
    Opcode.TMPFILE: CREATE_IN,
    Opcode.STATX: STATX_IN,
}
"""The least that follows the header of a request."""
