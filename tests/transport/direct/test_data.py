"""READ, WRITE and the rest that names places in a file: offsets that are right, huge, or nonsense."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transport.direct.conftest import BIG, Start
from tests.transport.direct.kernel import HANDLES, SILENT, Kernel
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.negotiate import MAX_WRITE
from unionfs.transport.direct.protocol import InitFlag, Opcode
from unionfs.transport.direct.server import DEFERRED

DATA = bytes(number % 253 for number in range(10_000))
NEGATIVE = (-1, -4096, -(1 << 63))
LAST = (1 << 63) - 1

MANNERS = pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "silent opens"])


class Subject:
    """A file in upper that holds DATA, opened in the manner of the kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.node = kernel.made(b"new", data=DATA).node
        opened = kernel.ask(Opcode.OPEN, self.node, p.OPEN_IN.pack(os.O_RDWR, 0))
        self.fh = 0 if opened.error else p.OPEN_OUT.unpack(opened.body)[0]

    def ask(self, opcode: Opcode, body: bytes) -> tuple[int, bytes]:
        answer = self.kernel.ask(opcode, self.node, body)
        return answer.error, answer.body

    def read(self, offset: int, size: int) -> tuple[int, bytes]:
        return self.ask(Opcode.READ, p.READ_IN.pack(self.fh, offset, size, 0, 0, 0, 0))

    def write(self, offset: int, data: bytes) -> int:
        return self.ask(Opcode.WRITE, p.WRITE_IN.pack(self.fh, offset, len(data), 0, 0, 0, 0) + data)[0]

    def copy(self, come_from: int, to: int, length: int, flags: int = 0) -> tuple[int, int]:
        body = p.COPY_FILE_RANGE_IN.pack(self.fh, come_from, self.node, self.fh, to, length, flags)
        error, answer = self.ask(Opcode.COPY_FILE_RANGE, body)
        return error, 0 if error else p.WRITE_OUT.unpack(answer)[0]

    def size(self) -> int:
        body = self.kernel.body(Opcode.GETATTR, self.node, p.GETATTR_IN.pack(0, 0, 0))
        size: int = p.ATTR_OUT.unpack(body)[4]
        return size


PLACES: list[tuple[int, int]] = [
    (0, 10_000),
    (0, 10_001),
    (1, 1),
    (0, 0),
    (9_999, 100),
    (10_000, 100),
    (20_000, 100),
    (1 << 40, 4096),
    (4096, 128 << 10),
]


@MANNERS
def test_reading(start: Start, offered: InitFlag) -> None:
    subject = Subject(start(offered=offered))
    for offset, size in PLACES:
        assert subject.read(offset, size) == (0, DATA[offset : offset + size]), (offset, size)


@MANNERS
def test_reading_what_cannot_be(start: Start, offered: InitFlag) -> None:
    """More than was agreed on would be memory for the asking; and there is nothing before the beginning."""
    subject = Subject(start(offered=offered))
    for offset, size in (
        *((place, 10) for place in NEGATIVE),
        *((0, MAX_WRITE + more) for more in (1, 4096)),
        (0, 1 << 31),
        (0, (1 << 32) - 1),
    ):
        assert subject.read(offset, size) == (errno.EINVAL, b""), (offset, size)
    error, data = subject.read(LAST, 4096)
    assert (error, data) in [(0, b""), (errno.EOVERFLOW, b""), (errno.EINVAL, b"")]
    assert subject.read(0, 10) == (0, DATA[:10])


@MANNERS
def test_writing(start: Start, layers: Path, offered: InitFlag) -> None:
    subject = Subject(start(offered=offered))
    mirror = bytearray(DATA)
    for offset, length in ((0, 1), (100, 4096), (9_990, 20), (12_000, 5), (5, 0), (4096, 100_000)):
        data = os.urandom(length)
        assert subject.write(offset, data) == 0
        if length:
            mirror.extend(bytes(max(offset + length - len(mirror), 0)))
            mirror[offset : offset + length] = data
    assert (layers / "upper/new").read_bytes() == mirror


@MANNERS
def test_writing_where_nothing_can_be(start: Start, layers: Path, offered: InitFlag) -> None:
    subject = Subject(start(offered=offered))
    for offset in NEGATIVE:
        assert subject.write(offset, b"data") == errno.EINVAL
    assert subject.write(LAST, b"data") in (errno.EFBIG, errno.EINVAL, errno.EOVERFLOW)
    assert (layers / "upper/new").read_bytes() == DATA


def test_the_largest_write_and_read(kernel: Kernel, layers: Path) -> None:
    """A socket holds less than the device: as much as an ordinary user may send."""
    subject = Subject(kernel)
    data = os.urandom(128 << 10)
    assert subject.write(1, data) == 0
    assert subject.read(1, 128 << 10) == (0, data)


@MANNERS
def test_a_lower_file_is_read_where_it_lies(start: Start, layers: Path, offered: InitFlag) -> None:
    kernel = start(offered=offered)
    node = kernel.node("big")
    fh = 0 if offered is SILENT else kernel.open(node)
    assert kernel.read(node, fh, BIG - 10, 100) == b"b" * 10
    assert os.listdir(layers / "upper") == []


def test_a_write_without_a_handle_copies_up(start: Start, layers: Path) -> None:
    kernel = start(offered=SILENT)
    node = kernel.node("file")
    assert kernel.read(node, 0) == b"lower data"
    kernel.write(node, 0, b"UPPER")
    assert (layers / "upper/file").read_bytes() == b"UPPER data"
    assert (layers / "lower/file").read_bytes() == b"lower data"
    assert kernel.read(node, 0) == b"UPPER data"


@MANNERS
def test_seeking(start: Start, offered: InitFlag) -> None:
    subject = Subject(start(offered=offered))
    found = []
    for offset, whence in (
        (0, os.SEEK_DATA),
        (0, os.SEEK_HOLE),
        (9_999, os.SEEK_DATA),
        (10_000, os.SEEK_DATA),
        (LAST, os.SEEK_HOLE),
        (-1, os.SEEK_DATA),
        (-(1 << 63), os.SEEK_HOLE),
        (0, os.SEEK_SET),
        (0, os.SEEK_END),
        (0, 99),
        (0, (1 << 32) - 1),
    ):
        error, body = subject.ask(Opcode.LSEEK, p.LSEEK_IN.pack(subject.fh, offset, whence, 0))
        found.append(-error if error else p.LSEEK_OUT.unpack(body)[0])
    no, wrong = -errno.ENXIO, -errno.EINVAL
    assert found == [0, 10_000, 9_999, no, no, no, no, wrong, wrong, wrong, wrong]


ALLOCATIONS: list[tuple[int, int, int, int | None]] = [
    (0, 0, 20_000, 0),
    (1, 0, 30_000, 0),
    (0, -1, 10, errno.EINVAL),
    (0, 0, 0, errno.EINVAL),
    (0, 0, -1, errno.EINVAL),
    (0, LAST, 1, None),
    (0, LAST, LAST, None),
    (0x7FFFFFFF, 0, 10, None),
    (0xFFFFFFFF, 0, 10, None),
]


@MANNERS
def test_allocating(start: Start, offered: InitFlag) -> None:
    subject = Subject(start(offered=offered))
    for mode, offset, length, expected in ALLOCATIONS:
        before = subject.size()
        body = p.FALLOCATE_IN.pack(subject.fh, offset, length, mode, 0)
        error, _ = subject.ask(Opcode.FALLOCATE, body)
        if expected is None:
            assert error in (errno.EFBIG, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSPC, errno.EOVERFLOW)
        else:
            assert error == expected, (mode, offset, length)
        assert subject.size() == (before if error or mode else offset + length)


@MANNERS
def test_copying_within_a_file(start: Start, layers: Path, offered: InitFlag) -> None:
    subject = Subject(start(offered=offered))
    assert subject.copy(0, 20_000, 5_000) == (0, 5_000)
    assert subject.copy(9_000, 50_000, 1 << 63) == (0, 16_000)
    assert subject.copy(1 << 40, 0, 10) == (0, 0)
    for come_from, to, length, flags in (
        (-1, 0, 10, 0),
        (0, -1, 10, 0),
        (-(1 << 63), 0, (1 << 64) - 1, 0),
        (0, 20_000, 10, 1),
        (0, 5, 100, 0),
    ):
        assert subject.copy(come_from, to, length, flags)[0] == errno.EINVAL, (come_from, to, length, flags)
    data = (layers / "upper/new").read_bytes()
    assert data[20_000:25_000] == DATA[:5_000]
    assert data[:10_000] == DATA


def test_copying_from_a_lower_file_onto_itself_without_handles(start: Start, layers: Path) -> None:
    """To write replaces the descriptor that the file was read by: the copy must not use the old one."""
    kernel = start(offered=SILENT)
    node = kernel.node("file")
    assert kernel.read(node, 0) == b"lower data"
    body = p.COPY_FILE_RANGE_IN.pack(0, 0, node, 0, 10, 10, 0)
    assert p.WRITE_OUT.unpack(kernel.body(Opcode.COPY_FILE_RANGE, node, body))[0] == 10
    assert (layers / "upper/file").read_bytes() == b"lower datalower data"
    assert (layers / "lower/file").read_bytes() == b"lower data"


@pytest.mark.parametrize(
    "opcode", [Opcode.COPY_FILE_RANGE, Opcode.READ, Opcode.FALLOCATE], ids=lambda o: o.name
)
def test_a_file_stays_open_while_a_worker_uses_it(
    start: Start, layers: Path, opcode: Opcode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without handles a node's descriptor may have to make room any time."""
    kernel = start(offered=SILENT)
    made = kernel.made(b"new", data=DATA)
    source = kernel.node("file")
    server = kernel.session._server
    held: list[Callable[[], None]] = []

    def later(pool: object, opcode: int, unique: int, work: Callable[[], bytes]) -> object:
        held.append(lambda: server.reply(unique, work()))
        return DEFERRED

    monkeypatch.setattr(type(server), "reply_later", lambda self, *arguments: later(*arguments))
    monkeypatch.setattr("unionfs.overlay.file.OpenFile.read_into", lambda *_: None)
    bodies = {
        Opcode.COPY_FILE_RANGE: (source, p.COPY_FILE_RANGE_IN.pack(0, 0, made.node, 0, 10_000, 10, 0)),
        Opcode.READ: (source, p.READ_IN.pack(0, 0, 100, 0, 0, 0, 0)),
        Opcode.FALLOCATE: (made.node, p.FALLOCATE_IN.pack(0, 0, 20_000, 0, 0)),
    }
    unique = kernel.send(opcode, *bodies[opcode])
    assert kernel.drain() == {}
    before = len(os.listdir("/proc/self/fd"))
    # The file is copied up and the nodes are forgotten: nothing needs their descriptors but the worker.
    kernel.write(source, 0, b"L")
    kernel.forget_all()
    assert len(held) == 1
    held.pop()()
    answer = kernel.wait_for(unique)
    assert answer.error == 0
    if opcode is Opcode.READ:
        assert answer.body == b"lower data"
    if opcode is Opcode.COPY_FILE_RANGE:
        assert (layers / "upper/new").read_bytes() == DATA + b"lower data"
    assert len(os.listdir("/proc/self/fd")) < before


SIZES: list[tuple[int, int]] = [
    (0, 0),
    (5, 0),
    (1 << 30, 0),
    (-1, errno.EINVAL),
    (-(1 << 63), errno.EINVAL),
    (LAST, errno.EFBIG),
]


@MANNERS
def test_truncating(start: Start, layers: Path, offered: InitFlag) -> None:
    subject = Subject(start(offered=offered))
    for size, expected in SIZES:
        for valid, fh in ((p.FATTR_SIZE, 0), (p.FATTR_SIZE | p.FATTR_FH, subject.fh)):
            before = subject.size()
            body = p.SETATTR_IN.pack(valid, 0, fh, size, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
            error, _ = subject.ask(Opcode.SETATTR, body)
            assert error in (expected, errno.EINVAL if expected else 0), size
            assert subject.size() == (before if error else size)
