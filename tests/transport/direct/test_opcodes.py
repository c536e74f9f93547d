"""Every opcode there is, or could be: a right answer, or ENOSYS."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import EVERYTHING, HANDLES, SILENT, Kernel, entry_of
from tests.transport.direct.samples import SAMPLES, UNANSWERED, VARIES, Scene
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

MANNERS = pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "silent opens"])

NOT_OURS = frozenset(
    (
        Opcode.GETLK,
        Opcode.SETLK,
        Opcode.SETLKW,
        Opcode.ACCESS,
        Opcode.BMAP,
        Opcode.POLL,
        Opcode.SETUPMAPPING,
        Opcode.REMOVEMAPPING,
    )
)
"""What the kernel does by itself when it is told ENOSYS, and what needs flags that are not used."""


@MANNERS
@pytest.mark.parametrize("opcode", sorted(SAMPLES), ids=lambda opcode: opcode.name)
def test_a_good_request_is_answered(start: Start, opcode: Opcode, offered: InitFlag) -> None:
    kernel = start(offered=offered)
    sample = SAMPLES[opcode](Scene(kernel))
    unique = kernel.send(opcode, sample.node, sample.body)
    if sample.size == UNANSWERED:
        assert unique not in kernel.drain()
        return
    answer = kernel.wait_for(unique)
    error, size = sample.error, sample.size
    if offered == SILENT and opcode in (Opcode.OPEN, Opcode.OPENDIR):
        error = errno.ENOSYS  # the kernel does it by itself, then
    if offered == SILENT and opcode is Opcode.RELEASEDIR:
        error = errno.EBADF  # no handle was given out
    if answer.error and answer.error == sample.may_fail:
        return
    assert answer.error == error
    if not error and size != VARIES:
        assert len(answer.body) == size
    assert not kernel.drain(), "answered twice"


def test_the_samples_and_what_is_left_out_are_all_there_is() -> None:
    assert set(SAMPLES) | NOT_OURS == set(Opcode)


UNKNOWN = [
    0,
    7,
    19,
    *range(max(Opcode) + 1, p.OPCODES),
    p.OPCODES,
    65,
    255,
    4096,
    1 << 20,
    1 << 31,
    2**32 - 1,
]


def test_any_other_is_refused(kernel: Kernel) -> None:
    """4096 is CUSE_INIT."""
    for opcode in (*NOT_OURS, *UNKNOWN):
        for body in (b"", bytes(64), b"file\0"):
            assert kernel.ask(opcode, body=body).error == errno.ENOSYS, opcode
    assert kernel.lookup(b"file").size == 10


def test_holes_are_the_kernel_s_where_it_keeps_writes(start: Start) -> None:
    """What it has not written yet would be a hole to us."""
    kernel = start(offered=EVERYTHING)
    sample = SAMPLES[Opcode.LSEEK](Scene(kernel))
    assert kernel.ask(Opcode.LSEEK, sample.node, sample.body).error == errno.ENOSYS


def test_requests_are_counted_by_name(kernel: Kernel) -> None:
    before = kernel.session.counts()
    kernel.lookup(b"file")
    kernel.lookup(b"dir")
    kernel.ask(4096)
    kernel.ask(60)
    after = kernel.session.counts()
    assert after["LOOKUP"] - before.get("LOOKUP", 0) == 2
    assert after["opcode 60"] == 1


KINDS: list[tuple[bytes, int]] = [
    (b"file", stat.S_IFREG),
    (b"dir", stat.S_IFDIR),
    (b"link", stat.S_IFLNK),
    (b"fifo", stat.S_IFIFO),
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_an_entry_says_what_it_is(kernel: Kernel, name: bytes, kind: int) -> None:
    entry = kernel.lookup(name)
    assert stat.S_IFMT(entry.mode) == kind
    assert entry.ino == entry.node
    assert (entry.uid, entry.gid) == (os.geteuid(), os.getegid())
    assert entry.entry_valid == entry.attr_valid == 10**9


def test_a_miss_is_remembered(kernel: Kernel) -> None:
    entry = entry_of(kernel.body(Opcode.LOOKUP, body=b"missing\0"))
    assert (entry.node, entry.entry_valid) == (0, 10**9)


def test_statx_has_what_getattr_has(kernel: Kernel) -> None:
    entry = kernel.lookup(b"file")
    fields = p.STATX_OUT.unpack(kernel.body(Opcode.STATX, entry.node, p.STATX_IN.pack(0, 0, 0, 0, 0xFFF)))
    mask, nlink, mode, ino, size = fields[3], fields[6], fields[9], fields[11], fields[12]
    assert mask & 0x7FF == 0x7FF
    assert (nlink, mode, ino, size) == (entry.nlink, entry.mode, entry.ino, entry.size)


def test_a_device_s_number_comes_back(kernel: Kernel) -> None:
    """new_encode_dev(): 12 bits of major, 20 of minor."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes device nodes")
    for major, minor in ((1, 3), (4095, 0xFFFFF), (8, 257)):
        number = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        name = b"dev%d" % minor
        body = p.MKNOD_IN.pack(stat.S_IFCHR | 0o600, number, 0, 0) + name + b"\0"
        answer = kernel.body(Opcode.MKNOD, body=body)
        assert p.ENTRY_OUT.unpack(answer)[19] == number
        kernel.entry(answer)
