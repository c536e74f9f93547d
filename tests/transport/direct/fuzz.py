"""Requests at random: good ones, good ones that were spoiled, and noise; all from one seed.

Learns nodes and handles from the answers, so that much of it means something. Nothing here judges an answer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from tests.transport.direct.kernel import Answer, Kernel, entry_of, request
from tests.transport.direct.test_extensions import contexts, extension, groups
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import Opcode


class Sent(NamedTuple):
    """A request; `due` says whether exactly one answer must come."""

    opcode: int
    node: int
    unique: int
    message: bytes
    due: bool


SILENT_OPCODES = frozenset((Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY))
ENTRY_FIRST = frozenset(
    (
        *(Opcode.LOOKUP, Opcode.MKDIR, Opcode.MKNOD, Opcode.SYMLINK, Opcode.LINK),
        *(Opcode.CREATE, Opcode.TMPFILE),
    )
)

BY_HANDLE = frozenset(
    (
        *(Opcode.READ, Opcode.WRITE, Opcode.RELEASE, Opcode.FSYNC, Opcode.FLUSH, Opcode.READDIR),
        *(Opcode.READDIRPLUS, Opcode.RELEASEDIR, Opcode.FSYNCDIR, Opcode.IOCTL, Opcode.FALLOCATE),
        *(Opcode.LSEEK, Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64),
    )
)
IN_DIRECTORY = ENTRY_FIRST | {Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2}

NAMES = [b"file", b"dir", b"big", b"link", b"fifo", b"inner", b"sub", b"a", b"b", b"c", b"new"]
BAD_NAMES = [
    b"",
    b".",
    b"..",
    b"/",
    b"a/b",
    b"../x",
    b".wh.a",
    b".wh..wh..opq",
    b"n" * 255,
    b"n" * 256,
    b"\xff\xfe",
]
XATTRS = [
    b"user.a",
    b"user.b",
    b"trusted.overlay.opaque",
    b"system.posix_acl_access",
    b"security.capability",
    b"x",
]
NUMBERS = [
    *(0, 1, 2, 7, 8, 15, 16, 100, 255, 4095, 4096, 4097, 65535, 65536, 100_000),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
]
FLAGS = [0, 1, 2, 3, os.O_TRUNC, os.O_APPEND | 1, os.O_EXCL, 0xFFFFFFFF]
KINDS = [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR, stat.S_IFLNK, 0]
"""No devices: what is spoiled becomes one often enough, and nothing may open it."""
IOCTLS = [0x80086601, 0x40086602, 0x801C581F, 0x401C5820, 0x5401, 0]


class Fuzzer:
    """One stream of requests."""

    def __init__(self, kernel: Kernel, seed: int) -> None:
        self.kernel = kernel
        self.fh = 0
        self.random = Random(seed)
        self.dirs = [p.ROOT_ID]
        self.others: list[int] = []
        self.opened: list[tuple[int, int]] = []
        self._builders: dict[int, Callable[[], bytes]] = self._all()

    # --- what answers teach ----------------------------------------------------------------------

    def learn(self, opcode: int, node: int, answer: Answer) -> None:
        if answer.error:
            return
        if opcode in ENTRY_FIRST:
            entry = entry_of(answer.body)
            if entry.node and stat.S_ISDIR(entry.mode):
                self.dirs = [p.ROOT_ID, *self.dirs[-6:], entry.node]
            elif entry.node:
                self.others = [*self.others[-12:], entry.node]
                node = entry.node
        at = {
            Opcode.OPEN: 0,
            Opcode.OPENDIR: 0,
            Opcode.CREATE: p.ENTRY_OUT.size,
            Opcode.TMPFILE: p.ENTRY_OUT.size,
        }
        if opcode in at:
            fh = p.OPEN_OUT.unpack_from(answer.body, at[Opcode(opcode)])[0]
            self.opened = [*self.opened[-8:], (node, fh)]

    # --- pieces ----------------------------------------------------------------------------------

    def node(self) -> int:
        how = self.random.random()
        if how < 0.02:
            return self.number()
        return self.random.choice(self.others if self.others and how < 0.5 else self.dirs)

    def handle(self) -> tuple[int, int]:
        """A node and a handle, of it mostly."""
        how = self.random.random()
        if how < 0.05:
            return self.node(), self.number()
        if not self.opened or how < 0.3:
            return self.node(), 0
        return self.random.choice(self.opened)

    def number(self, bits: int = 64) -> int:
        return self.random.choice(NUMBERS) % (1 << bits)

    def place(self) -> int:
        """An offset; mostly a small one."""
        if self.random.random() < 0.8:
            return self.random.randrange(0, 200_000)
        number = self.number()
        return number - (1 << 64) if number >> 63 else number

    def small(self) -> int:
        return self.random.randrange(0, 9000) if self.random.random() < 0.9 else self.number(32)

    def name(self) -> bytes:
        return self.random.choice(NAMES if self.random.random() < 0.93 else BAD_NAMES) + b"\0"

    def noise(self, most: int) -> bytes:
        return self.random.randbytes(self.random.randrange(0, most))

    def mode(self) -> int:
        return self.random.choice(KINDS) | self.random.randrange(0, 0o10000)

    # --- good requests ---------------------------------------------------------------------------

    def _all(self) -> dict[int, Callable[[], bytes]]:
        pick, umask = self.random.choice, 0o022

        def create() -> bytes:
            return p.CREATE_IN.pack(pick(FLAGS), self.mode(), umask, pick((0, 1)))

        def write() -> bytes:
            content = self.noise(5000)
            return p.WRITE_IN.pack(self.fh, self.place(), len(content), pick((0, 1, 4)), 0, 0, 0) + content

        def setxattr() -> bytes:
            value = self.noise(60)
            return p.SETXATTR_IN.pack(len(value), pick((0, 1, 2)), 0, 0) + pick(XATTRS) + b"\0" + value

        def setattr_() -> bytes:
            times = (self.number(40), self.number(40), 0)
            parts = (self.number(30), self.number(30), 0)
            ids = (0, pick((0, 1000, 0xFFFFFFFF)), pick((0, 1000)), 0)
            size = self.place()
            return p.SETATTR_IN.pack(
                self.random.randrange(1 << 12), 0, self.fh, size, 0, *times, *parts, self.mode(), *ids
            )

        def batch() -> bytes:
            ones = [
                p.FORGET_ONE.pack(self.node(), self.random.randrange(3))
                for _ in range(self.random.randrange(4))
            ]
            return p.BATCH_FORGET_IN.pack(len(ones), 0) + b"".join(ones)

        def copy() -> bytes:
            target, fh = self.handle()
            length = self.number()
            return p.COPY_FILE_RANGE_IN.pack(self.fh, self.place(), target, fh, self.place(), length, 0)

        def read() -> bytes:
            return p.READ_IN.pack(self.fh, self.place(), self.small(), 0, 0, 0, 0)

        bodies: dict[int, Callable[[], bytes]] = {
            Opcode.LOOKUP: self.name,
            Opcode.FORGET: lambda: p.FORGET_IN.pack(pick((0, 1, 1, self.number()))),
            Opcode.GETATTR: lambda: p.GETATTR_IN.pack(0, 0, self.fh),
            Opcode.SETATTR: setattr_,
            Opcode.READLINK: lambda: b"",
            Opcode.SYMLINK: lambda: self.name() + self.name(),
            Opcode.MKNOD: lambda: p.MKNOD_IN.pack(self.mode(), self.number(32), umask, 0) + self.name(),
            Opcode.MKDIR: lambda: p.MKDIR_IN.pack(self.mode(), umask) + self.name(),
            Opcode.UNLINK: self.name,
            Opcode.RMDIR: self.name,
            Opcode.RENAME: lambda: p.RENAME_IN.pack(self.node()) + self.name() + self.name(),
            Opcode.LINK: lambda: p.LINK_IN.pack(self.node()) + self.name(),
            Opcode.OPEN: lambda: p.OPEN_IN.pack(pick(FLAGS), pick((0, 1))),
            Opcode.READ: read,
            Opcode.WRITE: write,
            Opcode.STATFS: lambda: b"",
            Opcode.RELEASE: lambda: p.RELEASE_IN.pack(self.fh, 0, 0, 0),
            Opcode.FSYNC: lambda: p.FSYNC_IN.pack(self.fh, pick((0, 1)), 0),
            Opcode.SETXATTR: setxattr,
            Opcode.GETXATTR: lambda: p.GETXATTR_IN.pack(self.small(), 0) + pick(XATTRS) + b"\0",
            Opcode.LISTXATTR: lambda: p.GETXATTR_IN.pack(self.small(), 0),
            Opcode.REMOVEXATTR: lambda: pick(XATTRS) + b"\0",
            Opcode.FLUSH: lambda: p.FLUSH_IN.pack(self.fh, 0, 0, 0),
            Opcode.OPENDIR: lambda: p.OPEN_IN.pack(0, 0),
            Opcode.READDIR: read,
            Opcode.READDIRPLUS: read,
            Opcode.RELEASEDIR: lambda: p.RELEASE_IN.pack(self.fh, 0, 0, 0),
            Opcode.FSYNCDIR: lambda: p.FSYNC_IN.pack(self.fh, 0, 0),
            Opcode.CREATE: lambda: create() + self.name(),
            Opcode.TMPFILE: lambda: create() + b"/\0",
            Opcode.INTERRUPT: lambda: p.INTERRUPT_IN.pack(
                self.kernel.unique() - 2 * self.random.randrange(6)
            ),
            Opcode.DESTROY: lambda: b"",
            Opcode.IOCTL: lambda: p.IOCTL_IN.pack(self.fh, 0, pick(IOCTLS), 0, 28, pick((0, 28))) + bytes(28),
            Opcode.BATCH_FORGET: batch,
            Opcode.FALLOCATE: lambda: p.FALLOCATE_IN.pack(
                self.fh, self.place(), self.place(), pick((0, 1, 3, 16, self.number(32))), 0
            ),
            Opcode.RENAME2: lambda: (
                p.RENAME2_IN.pack(self.node(), pick((0, 1, 2, 4, 3)), 0) + self.name() + self.name()
            ),
            Opcode.LSEEK: lambda: p.LSEEK_IN.pack(self.fh, self.place(), pick((3, 4, 0, 99)), 0),
            Opcode.COPY_FILE_RANGE: copy,
            Opcode.COPY_FILE_RANGE_64: copy,
            Opcode.SYNCFS: lambda: bytes(8),
            Opcode.STATX: lambda: p.STATX_IN.pack(0, 0, 0, 0, self.number(32)),
        }
        return bodies

    # --- the stream ------------------------------------------------------------------------------

    def next(self) -> Sent:
        """The next request."""
        opcode = self.random.choice(list(self._builders))
        node, self.fh = self.handle()
        if opcode not in BY_HANDLE:
            node = self.random.choice(self.dirs) if opcode in IN_DIRECTORY else self.node()
        body = self._builders[opcode]()
        how = self.random.random()
        extlen, length = 0, None
        if opcode in ENTRY_FIRST and how < 0.15:
            more = self.random.choice((contexts((b"user.c", b"x")), groups(0), extension(40, b"12345678")))
            body, extlen = body + more, len(more) // 8
        if how > 0.7:
            body = self.spoil(body)
        if how > 0.95:
            opcode, body = (
                self.random.choice((opcode, self.random.randrange(70), self.number(32))),
                self.noise(200),
            )
        if how > 0.9:
            extlen = self.random.choice((0, 1, 2, 5, 0xFFFF))
        if self.random.random() < 0.02:
            length = self.number(32)
        unique = self.kernel.unique()
        uid = self.random.choice((0, 0, 0, 1000, 0xFFFFFFFF)) if os.geteuid() == 0 else None
        message = request(opcode, node, body, unique, uid=uid, extlen=extlen, length=length)
        if self.random.random() < 0.01:
            return Sent(0, 0, 0, message[: self.random.randrange(1, p.BODY)], False)
        return Sent(opcode, node, unique, message, opcode not in SILENT_OPCODES)

    def spoil(self, body: bytes) -> bytes:
        raw = bytearray(body)
        for _ in range(self.random.randrange(1, 4)):
            act = self.random.randrange(5)
            at = self.random.randrange(len(raw)) if raw else 0
            if act == 0 and raw:
                raw[at] ^= 1 << self.random.randrange(8)
            elif act == 1:
                del raw[at:]
            elif act == 2:
                raw += self.noise(40)
            elif act == 3 and raw:
                at &= ~3
                raw[at : at + 4] = self.number(32).to_bytes(4, "little")
            elif raw:
                at &= ~7
                raw[at : at + 8] = self.number().to_bytes(8, "little")
        return bytes(raw)
