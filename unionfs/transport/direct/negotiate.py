"""INIT: which of the flags that the kernel offers are used, and the limits of requests.

Decides once, from the kernel's offer and the mount's options; sends nothing. Rules are those of
fs/fuse/inode.c, process_init_reply().
"""

from __future__ import annotations

from dataclasses import dataclass

from unionfs.transport.direct.buffer import Buffer
from unionfs.transport.direct.protocol import (
    BODY,
    INIT_FLAGS2,
    INIT_IN,
    INIT_OUT,
    KERNEL_MINOR_VERSION,
    KERNEL_VERSION,
    OLDEST_MINOR_VERSION,
    PAGE_SIZE,
    InitFlag,
)

MAX_WRITE = 1 << 20
"""Bytes that one WRITE or READ may hold: 256 pages, the default of the kernel's fs.fuse.max_pages_limit."""

MAX_BACKGROUND = 64
"""Requests that no caller waits for (readahead, writeback) and that may be pending at once."""

_BASE_FLAGS = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.EXPORT_SUPPORT
    | InitFlag.BIG_WRITES
    | InitFlag.DONT_MASK
    | InitFlag.HAS_IOCTL_DIR
    | InitFlag.DO_READDIRPLUS
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.POSIX_ACL
    | InitFlag.ABORT_ERROR
    | InitFlag.MAX_PAGES
    | InitFlag.NO_OPENDIR_SUPPORT
    | InitFlag.SETXATTR_EXT
    | InitFlag.INIT_EXT
    | InitFlag.CREATE_SUPP_GROUP
    # A file handle would answer ESTALE once the kernel has forgotten the inode. Overlayfs gives none either.
    | InitFlag.NO_EXPORT_SUPPORT
)
"""Not ASYNC_DIO: generic_file_direct_write() drops cached pages before an asynchronous direct write only, and
fuse.ko drops none when it ends. What a reader has cached meanwhile would be shown for good.

Nor ALLOW_IDMAP: of every mount, idmapped or not, only requests that create would still have a uid, and none
says by which map (fuse_get_req()). Overlayfs cannot be idmapped, either."""


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What the mount asks for. `stack_depth` is how many stacked filesystems lie between a process and the
    disk, this one included; `layers_static` says that nothing changes but through the mount, `acl` that there
    are ACLs."""

    passthrough: bool
    writeback: bool
    layers_static: bool
    stack_depth: int = 1
    acl: bool = True


@dataclass(frozen=True, slots=True)
class Connection:
    """What was negotiated. `reply` is the body of the reply to INIT."""

    minor: int
    flags: InitFlag
    reply: bytes

    def flag_names(self) -> list[str]:
        """The flags in use, by their names in the protocol."""
        return [str(flag.name) for flag in InitFlag if flag in self.flags]


class TooOldError(Exception):
    """The kernel speaks a protocol before 7.31 (Linux 5.4)."""


def negotiate(request: Buffer, end: int, wanted: InitOptions) -> Connection | None:
    """Negotiate. None where the kernel has a newer major version: it sends INIT again after our reply.

    Raises TooOldError.
    """
    major, minor, max_readahead, low = INIT_IN.unpack_from(request, BODY)
    if major > KERNEL_VERSION:
        return None
    if major < KERNEL_VERSION or minor < OLDEST_MINOR_VERSION:
        raise TooOldError(
            f"INIT: the kernel has FUSE protocol {major}.{minor}, and 7.31 (Linux 5.4) or later is needed"
        )
    offered = InitFlag(low)
    flags2_at = BODY + INIT_IN.size
    if offered & InitFlag.INIT_EXT and end >= flags2_at + INIT_FLAGS2.size:
        offered |= InitFlag(INIT_FLAGS2.unpack_from(request, flags2_at)[0] << 32)
    flags = offered & _BASE_FLAGS
    if not wanted.acl:
        # Without ACLs no directory has a default ACL instead of the umask, which the kernel then applies.
        flags &= ~(InitFlag.POSIX_ACL | InitFlag.DONT_MASK)
    # Version 1 makes it the daemon's work as well, and lets the daemon decide by itself.
    flags |= offered & InitFlag.HANDLE_KILLPRIV_V2 or offered & InitFlag.HANDLE_KILLPRIV
    # Before 7.38 no length says where the contexts begin.
    if minor >= 38:
        flags |= offered & InitFlag.SECURITY_CTX
    if wanted.layers_static:
        flags |= offered & InitFlag.CACHE_SYMLINKS
    else:
        flags |= offered & InitFlag.AUTO_INVAL_DATA
    passthrough = wanted.passthrough and bool(offered & InitFlag.PASSTHROUGH)
    if passthrough:
        flags |= InitFlag.PASSTHROUGH
    elif wanted.layers_static and flags & InitFlag.HANDLE_KILLPRIV_V2:
        # Files are opened without a request: then O_TRUNC must come as a SETATTR.
        flags |= offered & InitFlag.NO_OPEN_SUPPORT
        if flags & InitFlag.NO_OPEN_SUPPORT:
            flags &= ~InitFlag.ATOMIC_O_TRUNC
    if not passthrough and wanted.writeback:
        flags |= offered & InitFlag.WRITEBACK_CACHE
    reply = INIT_OUT.pack(
        KERNEL_VERSION,
        KERNEL_MINOR_VERSION,
        max_readahead,
        flags & 0xFFFFFFFF,
        MAX_BACKGROUND,
        MAX_BACKGROUND * 3 // 4,
        MAX_WRITE,
        1,  # time stamps are exact to the nanosecond
        MAX_WRITE // PAGE_SIZE,
        0,
        flags >> 32,
        wanted.stack_depth if passthrough else 0,
        0,
    )
    return Connection(min(minor, KERNEL_MINOR_VERSION), flags, reply)
