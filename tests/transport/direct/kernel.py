"""A kernel for tests: it speaks to a session over a socket pair in place of /dev/fuse.

One message is one request or one answer, as on the device. It sends whatever a test makes up, sense or not,
and counts lookups as fuse.ko does. Nothing here may know what an answer should be.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from unionfs.overlay.closed import open_union
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode
from unionfs.transport.direct.session import Session
from unionfs.transport.session import SessionOptions

PATIENCE = 20.0
"""Seconds after which a missing answer fails a test instead of stopping the run."""

NO_SUCH_OPCODE = 63

EVERYTHING = InitFlag((1 << 43) - 1)
"""What a kernel offers that has it all."""
SILENT = EVERYTHING & ~InitFlag.WRITEBACK_CACHE
"""As above, but it writes at once. Without passthrough it opens by itself: OPEN is answered ENOSYS."""
HANDLES = SILENT & ~(InitFlag.NO_OPEN_SUPPORT | InitFlag.NO_OPENDIR_SUPPORT)
"""It wants every OPEN and OPENDIR answered with a handle."""

_ROOM = 4 << 20


@dataclass(frozen=True)
class Answer:
    """What came back: `error` is 0 or a positive errno."""

    unique: int
    error: int
    body: bytes


class Entry(NamedTuple):
    """The interesting part of `struct fuse_entry_out`."""

    node: int
    entry_valid: int
    attr_valid: int
    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int


class Listed(NamedTuple):
    """One entry of a listing; `node` is 0 where READDIR was asked."""

    name: bytes
    ino: int
    cookie: int
    kind: int
    node: int = 0


def entry_of(body: bytes) -> Entry:
    fields = p.ENTRY_OUT.unpack_from(body)
    return Entry(fields[0], fields[2], fields[3], fields[6], fields[7], *fields[15:19])


def request(
    opcode: int,
    node: int,
    body: bytes,
    unique: int,
    *,
    uid: int | None = None,
    gid: int | None = None,
    pid: int | None = None,
    extlen: int = 0,
    length: int | None = None,
) -> bytes:
    """A message as the device hands it out; *length* lies about its size, *extlen* is in 8 bytes."""
    size = p.IN_HEADER.size + len(body) if length is None else length
    who = (
        os.geteuid() if uid is None else uid,
        os.getegid() if gid is None else gid,
        os.getpid() if pid is None else pid,
    )
    return p.IN_HEADER.pack(size, opcode, unique, node, *who, extlen, 0) + body


class Kernel:
    """The kernel's end of one session, with the union behind it."""

    def __init__(
        self,
        config: UnionConfig,
        *,
        options: SessionOptions | None = None,
        offered: InitFlag = HANDLES,
        minor: int = p.KERNEL_MINOR_VERSION,
        init: bool = True,
    ) -> None:
        self.union = open_union(config)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (mine, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        mine.settimeout(PATIENCE)
        self._socket = mine
        self._uniques = itertools.count(2, 2)
        self.known: Counter[int] = Counter()
        self.notices: list[Answer] = []
        self._early: dict[int, Answer] = {}
        self.session = Session(self.union, theirs.detach(), options or SessionOptions(passthrough="off"))
        self.over = threading.Event()
        self.session.start(self.over.set)
        self._closed = False
        if init:
            assert self.init(offered, minor).error == 0

    # --- raw -------------------------------------------------------------------------------------

    def unique(self) -> int:
        return next(self._uniques)

    def send_raw(self, message: bytes) -> None:
        self._socket.send(message)

    def send(self, opcode: int, node: int = p.ROOT_ID, body: bytes = b"", **more: int | None) -> int:
        """Send a request and do not wait; returns its number."""
        unique = self.unique()
        self.send_raw(request(opcode, node, body, unique, **more))  # type: ignore[arg-type]
        return unique

    def receive(self) -> Answer:
        """The next message, whatever it is; its header is checked."""
        message = self._socket.recv(_ROOM)
        length, error, unique = p.OUT_HEADER.unpack_from(message)
        assert length == len(message), "the answer lies about its length"
        if unique == 0:
            return Answer(0, error, message[16:])
        assert -512 < error <= 0, "the kernel takes no such errno"
        assert not error or length == 16, "a failure has no body"
        return Answer(unique, -error, message[16:])

    def wait_for(self, unique: int) -> Answer:
        """The answer to a request that was sent; others' are kept until they are waited for."""
        while unique not in self._early:
            answer = self.receive()
            if answer.unique == 0:
                self.notices.append(answer)
            else:
                assert answer.unique not in self._early, "answered twice"
                self._early[answer.unique] = answer
        return self._early.pop(unique)

    def ask(self, opcode: int, node: int = p.ROOT_ID, body: bytes = b"", **more: int | None) -> Answer:
        return self.wait_for(self.send(opcode, node, body, **more))

    def body(self, opcode: int, node: int = p.ROOT_ID, body: bytes = b"", **more: int | None) -> bytes:
        """The answer's body; OSError where it is an errno."""
        answer = self.ask(opcode, node, body, **more)
        if answer.error:
            raise OSError(answer.error, os.strerror(answer.error), opcode)
        return answer.body

    def drain(self) -> dict[int, Answer]:
        """Every answer to what needed no waiting and was not waited for yet, by number."""
        unique = self.send(NO_SUCH_OPCODE)
        self.wait_for(unique)
        early, self._early = self._early, {}
        return early

    def interrupt(self, unique: int) -> int:
        """Say that a signal has come for whoever waits for this request; no answer is due."""
        return self.send(Opcode.INTERRUPT, 0, p.INTERRUPT_IN.pack(unique))

    # --- INIT ------------------------------------------------------------------------------------

    def init(self, offered: InitFlag, minor: int = p.KERNEL_MINOR_VERSION, major: int = 7) -> Answer:
        return self.ask(Opcode.INIT, 0, init_body(offered, minor, major))

    # --- requests that count lookups -------------------------------------------------------------

    def entry(self, body: bytes) -> Entry:
        """An entry that was answered, as the kernel counts it."""
        entry = entry_of(body)
        if entry.node:
            self.known[entry.node] += 1
        return entry

    def lookup(self, name: bytes, parent: int = p.ROOT_ID) -> Entry:
        return self.entry(self.body(Opcode.LOOKUP, parent, name + b"\0"))

    def node(self, path: str) -> int:
        """The node of a path, looked up step by step."""
        node = p.ROOT_ID
        for name in path.encode().split(b"/"):
            node = self.lookup(name, node).node
            assert node, f"{path} is not there"
        return node

    def mkdir(self, name: bytes, parent: int = p.ROOT_ID, mode: int = 0o755) -> Entry:
        return self.entry(self.body(Opcode.MKDIR, parent, p.MKDIR_IN.pack(mode, 0) + name + b"\0"))

    def create(self, name: bytes, parent: int = p.ROOT_ID, mode: int = 0o644) -> tuple[Entry, int]:
        """CREATE: the entry and the handle, open for reading and writing."""
        body = p.CREATE_IN.pack(os.O_RDWR | os.O_CREAT, mode, 0, 0) + name + b"\0"
        answer = self.body(Opcode.CREATE, parent, body)
        return self.entry(answer), p.OPEN_OUT.unpack_from(answer, p.ENTRY_OUT.size)[0]

    def made(self, name: bytes, parent: int = p.ROOT_ID, data: bytes = b"") -> Entry:
        """A new file, closed again."""
        entry, fh = self.create(name, parent)
        if data:
            self.write(entry.node, fh, data)
        self.release(entry.node, fh)
        return entry

    def link(self, node: int, name: bytes, parent: int = p.ROOT_ID) -> Entry:
        return self.entry(self.body(Opcode.LINK, parent, p.LINK_IN.pack(node) + name + b"\0"))

    # --- handles and data ------------------------------------------------------------------------

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        fh: int = p.OPEN_OUT.unpack(self.body(Opcode.OPEN, node, p.OPEN_IN.pack(flags, 0)))[0]
        return fh

    def opendir(self, node: int = p.ROOT_ID) -> int:
        fh: int = p.OPEN_OUT.unpack(self.body(Opcode.OPENDIR, node, p.OPEN_IN.pack(0, 0)))[0]
        return fh

    def release(self, node: int, fh: int, opcode: int = Opcode.RELEASE) -> None:
        self.body(opcode, node, p.RELEASE_IN.pack(fh, 0, 0, 0))

    def read(self, node: int, fh: int, offset: int = 0, size: int = 4096) -> bytes:
        return self.body(Opcode.READ, node, p.READ_IN.pack(fh, offset, size, 0, 0, 0, 0))

    def write(self, node: int, fh: int, data: bytes, offset: int = 0) -> int:
        body = p.WRITE_IN.pack(fh, offset, len(data), 0, 0, 0, 0) + data
        count: int = p.WRITE_OUT.unpack(self.body(Opcode.WRITE, node, body))[0]
        return count

    def readdir(self, fh: int = 0, node: int = p.ROOT_ID, cookie: int = 0, size: int = 4096) -> list[Listed]:
        body = self.body(Opcode.READDIR, node, p.READ_IN.pack(fh, cookie, size, 0, 0, 0, 0))
        return list_of(body, size)

    def readdirplus(
        self, fh: int = 0, node: int = p.ROOT_ID, cookie: int = 0, size: int = 4096
    ) -> list[Listed]:
        body = self.body(Opcode.READDIRPLUS, node, p.READ_IN.pack(fh, cookie, size, 0, 0, 0, 0))
        listed = list_of(body, size, plus=True)
        self.known.update(entry.node for entry in listed if entry.node)
        return listed

    # --- the end ---------------------------------------------------------------------------------

    def forget(self, node: int, count: int) -> None:
        self.send(Opcode.FORGET, node, p.FORGET_IN.pack(count))

    def forget_all(self) -> None:
        """Forget every lookup that was counted, as `echo 2 > drop_caches` does."""
        pairs = [p.FORGET_ONE.pack(*pair) for pair in self.known.items()]
        self.known.clear()
        for start in range(0, len(pairs), 1000):
            part = pairs[start : start + 1000]
            self.send(Opcode.BATCH_FORGET, 0, p.BATCH_FORGET_IN.pack(len(part), 0) + b"".join(part))
        self.drain()

    def table(self) -> set[int]:
        """The numbers of the inodes that the union knows."""
        self.drain()
        with self.session._server.lock:
            return {inode.ino for inode in self.union.fs.table.values()}

    def hang_up(self) -> None:
        """Unmount: the session's thread ends."""
        self._socket.shutdown(socket.SHUT_WR)
        assert self.over.wait(PATIENCE), "the session goes on without a kernel"

    def end(self, *, closed: bool = False) -> None:
        """Unmount, and let go of everything; *closed*: the session's part is done."""
        if self._closed:
            return
        self._closed = True
        if not closed:
            self.hang_up()
            self.session.close()
        self._socket.close()
        self.union.close()
        self.session.raise_failure()


def init_body(offered: InitFlag, minor: int = p.KERNEL_MINOR_VERSION, major: int = 7) -> bytes:
    """INIT as a kernel of that version says it: before 7.36 it is 16 bytes."""
    body = p.INIT_IN.pack(major, minor, 1 << 20, offered & 0xFFFFFFFF)
    return body if minor < 36 else body + struct.pack("=I44x", offered >> 32)


def list_of(body: bytes, size: int, *, plus: bool = False) -> list[Listed]:
    """What a listing's answer holds; every entry must be whole and within *size*."""
    assert len(body) <= size, "more than there is room for"
    head = p.ENTRY_OUT.size if plus else 0
    found, at = [], 0
    while at < len(body):
        node = entry_of(body[at:]).node if plus else 0
        ino, cookie, length, kind = p.DIRENT.unpack_from(body, at + head)
        start = at + head + p.DIRENT.size
        assert start + length <= len(body), "an entry that is cut short"
        found.append(Listed(body[start : start + length], ino, cookie, kind, node))
        at = (start + length + 7) & ~7
    assert at == len(body), "not padded to 8 bytes"
    return found
