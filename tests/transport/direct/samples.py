"""A good request of every kind, on the layers of the fixtures, and what its answer must look like."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from tests.transport.direct.kernel import Kernel
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.file_ops import FS_IOC_GETFLAGS
from unionfs.transport.direct.protocol import Opcode

VARIES = -1
UNANSWERED = -2
"""No answer comes."""

ENTRY = p.ENTRY_OUT.size
OPENED = ENTRY + p.OPEN_OUT.size


@dataclass(frozen=True)
class Sample:
    """A request. `size` is that of the answer's body; of errnos `error` is the right one, or `may_fail`."""

    node: int
    body: bytes
    size: int
    error: int = 0
    may_fail: int = 0


class Scene:
    """Nodes and handles that the samples are about: a file in upper, and what the layers hold."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        mine, self.fh = kernel.create(b"mine")
        self.mine = mine.node
        kernel.write(self.mine, self.fh, b"0123456789" * 10)
        kernel.body(Opcode.SETXATTR, self.mine, p.SETXATTR_IN.pack(3, 0, 0, 0) + b"user.x\0abc")
        self.directory = kernel.node("dir")
        self.empty = kernel.mkdir(b"empty").node
        self.link = kernel.node("link")
        opened = kernel.ask(Opcode.OPENDIR, body=p.OPEN_IN.pack(0, 0))
        self.dirfh = 0 if opened.error else p.OPEN_OUT.unpack(opened.body)[0]


Build = Callable[[Scene], Sample]


def _setattr(valid: int, mode: int) -> bytes:
    return p.SETATTR_IN.pack(valid, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)


def _copy(s: Scene) -> Sample:
    body = p.COPY_FILE_RANGE_IN.pack(s.fh, 0, s.mine, s.fh, 200, 50, 0)
    return Sample(s.mine, body, 8)


def _read_dir(s: Scene) -> Sample:
    return Sample(p.ROOT_ID, p.READ_IN.pack(s.dirfh, 0, 4096, 0, 0, 0, 0), VARIES)


def _create(s: Scene) -> bytes:
    return p.CREATE_IN.pack(os.O_RDWR, 0o644, 0o022, 0)


ROOT = p.ROOT_ID

SAMPLES: dict[Opcode, Build] = {
    Opcode.LOOKUP: lambda s: Sample(ROOT, b"file\0", ENTRY),
    Opcode.FORGET: lambda s: Sample(s.directory, p.FORGET_IN.pack(0), UNANSWERED),
    Opcode.GETATTR: lambda s: Sample(ROOT, p.GETATTR_IN.pack(0, 0, 0), p.ATTR_OUT.size),
    Opcode.SETATTR: lambda s: Sample(s.mine, _setattr(p.FATTR_MODE, 0o600), p.ATTR_OUT.size),
    Opcode.READLINK: lambda s: Sample(s.link, b"", len(b"file")),
    Opcode.SYMLINK: lambda s: Sample(ROOT, b"new\0target\0", ENTRY),
    Opcode.MKNOD: lambda s: Sample(
        ROOT, p.MKNOD_IN.pack(stat.S_IFIFO | 0o644, 0, 0o022, 0) + b"new\0", ENTRY
    ),
    Opcode.MKDIR: lambda s: Sample(ROOT, p.MKDIR_IN.pack(0o755, 0o022) + b"new\0", ENTRY),
    Opcode.UNLINK: lambda s: Sample(ROOT, b"mine\0", 0),
    Opcode.RMDIR: lambda s: Sample(ROOT, b"empty\0", 0),
    Opcode.RENAME: lambda s: Sample(ROOT, p.RENAME_IN.pack(ROOT) + b"mine\0new\0", 0),
    Opcode.LINK: lambda s: Sample(ROOT, p.LINK_IN.pack(s.mine) + b"new\0", ENTRY),
    Opcode.OPEN: lambda s: Sample(s.mine, p.OPEN_IN.pack(os.O_RDWR, 0), p.OPEN_OUT.size),
    Opcode.READ: lambda s: Sample(s.mine, p.READ_IN.pack(s.fh, 0, 10, 0, 0, 0, 0), 10),
    Opcode.WRITE: lambda s: Sample(
        s.mine, p.WRITE_IN.pack(s.fh, 0, 4, 0, 0, 0, 0) + b"data", p.WRITE_OUT.size
    ),
    Opcode.STATFS: lambda s: Sample(ROOT, b"", p.STATFS_OUT.size),
    Opcode.RELEASE: lambda s: Sample(s.mine, p.RELEASE_IN.pack(s.fh, 0, 0, 0), 0),
    Opcode.FSYNC: lambda s: Sample(s.mine, p.FSYNC_IN.pack(s.fh, 0, 0), 0),
    Opcode.SETXATTR: lambda s: Sample(s.mine, p.SETXATTR_IN.pack(3, 0, 0, 0) + b"user.y\0abc", 0),
    Opcode.GETXATTR: lambda s: Sample(s.mine, p.GETXATTR_IN.pack(100, 0) + b"user.x\0", len(b"abc")),
    Opcode.LISTXATTR: lambda s: Sample(s.mine, p.GETXATTR_IN.pack(1000, 0), VARIES),
    Opcode.REMOVEXATTR: lambda s: Sample(s.mine, b"user.x\0", 0),
    Opcode.FLUSH: lambda s: Sample(s.mine, p.FLUSH_IN.pack(s.fh, 0, 0, 0), 0, may_fail=errno.ENOSYS),
    Opcode.INIT: lambda s: Sample(0, p.INIT_IN.pack(7, 31, 0, 0), 0, errno.EIO),
    Opcode.OPENDIR: lambda s: Sample(ROOT, p.OPEN_IN.pack(0, 0), p.OPEN_OUT.size),
    Opcode.READDIR: _read_dir,
    Opcode.RELEASEDIR: lambda s: Sample(ROOT, p.RELEASE_IN.pack(s.dirfh, 0, 0, 0), 0),
    Opcode.FSYNCDIR: lambda s: Sample(ROOT, p.FSYNC_IN.pack(s.dirfh, 0, 0), 0),
    Opcode.CREATE: lambda s: Sample(ROOT, _create(s) + b"new\0", OPENED),
    Opcode.INTERRUPT: lambda s: Sample(0, p.INTERRUPT_IN.pack(1), UNANSWERED),
    Opcode.DESTROY: lambda s: Sample(0, b"", 0),
    Opcode.IOCTL: lambda s: Sample(
        s.mine, p.IOCTL_IN.pack(s.fh, 0, FS_IOC_GETFLAGS, 0, 0, 8), 20, may_fail=errno.ENOTTY
    ),
    Opcode.NOTIFY_REPLY: lambda s: Sample(ROOT, bytes(40), UNANSWERED),
    Opcode.BATCH_FORGET: lambda s: Sample(
        0,
        p.BATCH_FORGET_IN.pack(2, 0) + p.FORGET_ONE.pack(s.mine, 0) + p.FORGET_ONE.pack(s.link, 0),
        UNANSWERED,
    ),
    Opcode.FALLOCATE: lambda s: Sample(s.mine, p.FALLOCATE_IN.pack(s.fh, 0, 200, 0, 0), 0),
    Opcode.READDIRPLUS: _read_dir,
    Opcode.RENAME2: lambda s: Sample(ROOT, p.RENAME2_IN.pack(ROOT, 1, 0) + b"mine\0new\0", 0),
    Opcode.LSEEK: lambda s: Sample(s.mine, p.LSEEK_IN.pack(s.fh, 0, os.SEEK_DATA, 0), p.LSEEK_OUT.size),
    Opcode.COPY_FILE_RANGE: _copy,
    Opcode.SYNCFS: lambda s: Sample(ROOT, bytes(8), 0),
    Opcode.TMPFILE: lambda s: Sample(ROOT, _create(s) + b"/\0", OPENED, may_fail=errno.EOPNOTSUPP),
    Opcode.STATX: lambda s: Sample(s.mine, p.STATX_IN.pack(0, 0, 0, 0, 0xFFF), p.STATX_OUT.size),
    Opcode.COPY_FILE_RANGE_64: _copy,
}
"""What is not here is answered ENOSYS."""

WITHOUT_ARGUMENTS = frozenset(
    (Opcode.READLINK, Opcode.STATFS, Opcode.DESTROY, Opcode.SYNCFS, Opcode.NOTIFY_REPLY)
)
"""Whatever follows their headers says nothing."""
