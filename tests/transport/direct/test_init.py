"""INIT: what is agreed on with kernels from Linux 5.4 to one that is newer than this program."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import EVERYTHING, Kernel, init_body
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.negotiate import MAX_WRITE, InitOptions, negotiate
from unionfs.transport.direct.protocol import InitFlag, Opcode
from unionfs.transport.direct.server import BUFFER_SIZE
from unionfs.transport.session import SessionOptions

F = InitFlag

V31 = InitFlag((1 << 27) - 1)
"""What Linux 5.4 may offer: up to MAP_ALIGNMENT."""
V33 = V31 | F.SUBMOUNTS | F.HANDLE_KILLPRIV_V2 | F.SETXATTR_EXT
V36 = V33 | F.INIT_EXT | F.SECURITY_CTX | F.HAS_INODE_DAX
V38 = V36 | F.CREATE_SUPP_GROUP | F.HAS_EXPIRE_ONLY
V40 = V38 | F.DIRECT_IO_ALLOW_MMAP | F.PASSTHROUGH | F.NO_EXPORT_SUPPORT | F.HAS_RESEND
V45 = V40 | F.ALLOW_IDMAP | F.OVER_IO_URING | F.REQUEST_TIMEOUT

BASE = (
    F.ASYNC_READ
    | F.ATOMIC_O_TRUNC
    | F.EXPORT_SUPPORT
    | F.BIG_WRITES
    | F.DONT_MASK
    | F.HAS_IOCTL_DIR
    | F.DO_READDIRPLUS
    | F.PARALLEL_DIROPS
    | F.POSIX_ACL
    | F.ABORT_ERROR
    | F.MAX_PAGES
    | F.NO_OPENDIR_SUPPORT
    | F.CACHE_SYMLINKS
)
"""What every kernel from 7.31 on has, and a mount of static layers uses."""
K33 = BASE | F.HANDLE_KILLPRIV_V2 | F.SETXATTR_EXT
K38 = K33 | F.INIT_EXT | F.SECURITY_CTX | F.CREATE_SUPP_GROUP
K40 = K38 | F.NO_EXPORT_SUPPORT

STATIC = InitOptions(passthrough=False, writeback=False, layers_static=True)
PASSTHROUGH = replace(STATIC, passthrough=True)
WRITEBACK = replace(STATIC, writeback=True)
TIMEOUTS = replace(STATIC, layers_static=False)

SILENT = F.NO_OPEN_SUPPORT
"""With it O_TRUNC is not asked for: files are then opened without us."""

AGREED: list[tuple[str, int, InitFlag, InitOptions, InitFlag]] = [
    ("7.31", 31, V31, STATIC, BASE | F.HANDLE_KILLPRIV),
    ("7.33", 33, V33, STATIC, K33 & ~F.ATOMIC_O_TRUNC | SILENT),
    ("7.36", 36, V36, STATIC, K33 & ~F.ATOMIC_O_TRUNC | SILENT | F.INIT_EXT),
    ("7.38", 38, V38, STATIC, K38 & ~F.ATOMIC_O_TRUNC | SILENT),
    ("7.40", 40, V40, PASSTHROUGH, K40 | F.PASSTHROUGH),
    ("7.45", 45, V45, PASSTHROUGH, K40 | F.PASSTHROUGH),
    ("a newer minor", 99, V45, PASSTHROUGH, K40 | F.PASSTHROUGH),
    ("no passthrough there", 38, V38, PASSTHROUGH, K38 & ~F.ATOMIC_O_TRUNC | SILENT),
    ("passthrough instead of writeback", 45, V45, replace(PASSTHROUGH, writeback=True), K40 | F.PASSTHROUGH),
    ("writeback", 45, V45, WRITEBACK, K40 & ~F.ATOMIC_O_TRUNC | SILENT | F.WRITEBACK_CACHE),
    ("writeback in 5.4", 31, V31, WRITEBACK, BASE | F.HANDLE_KILLPRIV | F.WRITEBACK_CACHE),
    (
        "layers that change",
        45,
        V45,
        TIMEOUTS,
        K40 & ~F.CACHE_SYMLINKS | F.AUTO_INVAL_DATA,
    ),
    (
        "no such opens without KILLPRIV_V2",
        45,
        V45 & ~F.HANDLE_KILLPRIV_V2,
        STATIC,
        K40 & ~F.HANDLE_KILLPRIV_V2 | F.HANDLE_KILLPRIV,
    ),
    ("nothing offered", 31, InitFlag(0), WRITEBACK, InitFlag(0)),
]
IDS = [row[0] for row in AGREED]


def message(body: bytes) -> bytes:
    return p.IN_HEADER.pack(p.BODY + len(body), Opcode.INIT, 2, 0, 0, 0, 0, 0, 0) + body


@pytest.mark.parametrize(("name", "minor", "offered", "wanted", "agreed"), AGREED, ids=IDS)
def test_what_is_agreed_on(
    name: str, minor: int, offered: InitFlag, wanted: InitOptions, agreed: InitFlag
) -> None:
    request = message(init_body(offered, minor))
    connection = negotiate(request, len(request), wanted)
    assert connection is not None
    assert InitFlag(connection.flags) == agreed
    fields = p.INIT_OUT.unpack(connection.reply)
    major, said, readahead, low, background, congestion, max_write, gran, pages, _, high, depth, _ = fields
    assert (major, said) == (7, p.KERNEL_MINOR_VERSION)
    assert low | high << 32 == agreed
    assert readahead == 1 << 20
    assert 0 < congestion <= background
    assert (max_write, pages, gran) == (1 << 20, 256, 1)
    # fuse.ko drops passthrough without a depth, and refuses one of more than 2.
    assert depth == (1 if agreed & F.PASSTHROUGH else 0)
    assert connection.minor == min(minor, p.KERNEL_MINOR_VERSION)
    assert sorted(connection.flag_names()) == sorted(str(flag.name) for flag in agreed)


@pytest.mark.parametrize("wanted", [STATIC, PASSTHROUGH, WRITEBACK, TIMEOUTS], ids=str)
@pytest.mark.parametrize("flag", list(InitFlag), ids=lambda flag: flag.name)
def test_a_flag_is_used_only_when_it_is_offered(flag: InitFlag, wanted: InitOptions) -> None:
    offered = EVERYTHING & ~flag
    request = message(init_body(offered))
    connection = negotiate(request, len(request), wanted)
    assert connection is not None
    if flag is F.INIT_EXT:
        # Then nobody says what the upper half of the flags is.
        assert connection.flags >> 32 == 0
    assert connection.flags & ~offered == 0


def test_the_upper_flags_count_only_where_the_kernel_has_sent_them() -> None:
    """The buffer is used again: behind a short INIT lies something else."""
    request = message(init_body(V31 | F.INIT_EXT, 31)) + b"\xff" * 64
    connection = negotiate(request, p.BODY + p.INIT_IN.size, PASSTHROUGH)
    assert connection is not None
    assert connection.flags >> 32 == 0


def test_a_newer_major_is_asked_again(start: Start) -> None:
    kernel = start(init=False)
    answer = kernel.init(EVERYTHING, major=8)
    assert answer.error == 0
    assert p.INIT_OUT.unpack(answer.body)[:2] == (7, p.KERNEL_MINOR_VERSION)
    assert kernel.session.flags() == []
    assert kernel.ask(Opcode.GETATTR, body=p.GETATTR_IN.pack(0, 0, 0)).error == errno.ENOSYS
    assert kernel.init(EVERYTHING).error == 0
    assert kernel.lookup(b"file").size == 10


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 0), (6, 99)])
def test_an_older_protocol_is_refused(
    start: Start, major: int, minor: int, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = start(init=False)
    assert kernel.init(V31, minor, major).error == errno.EPROTO
    assert f"FUSE protocol {major}.{minor}, and 7.31 (Linux 5.4) or later is needed" in caplog.text
    assert kernel.ask(Opcode.LOOKUP, body=b"file\0").error == errno.ENOSYS


def test_a_second_init_is_refused(kernel: Kernel) -> None:
    assert kernel.init(EVERYTHING).error == errno.EIO
    assert kernel.lookup(b"file").size == 10


@pytest.mark.parametrize("length", range(p.INIT_IN.size))
def test_an_init_that_is_cut_short(start: Start, length: int) -> None:
    kernel = start(init=False)
    assert kernel.ask(Opcode.INIT, 0, init_body(EVERYTHING)[:length]).error == errno.EINVAL
    assert kernel.init(EVERYTHING).error == 0


def test_before_init_nothing_is_answered_but_enosys(start: Start) -> None:
    kernel = start(init=False)
    for opcode in set(Opcode) - {Opcode.INIT, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY}:
        if opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET):
            assert kernel.ask(opcode, body=bytes(128)).error == errno.ENOSYS, opcode


def test_the_session_names_what_is_in_use(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    kernel = start(offered=V33, minor=33)
    names = kernel.session.flags()
    assert {"HANDLE_KILLPRIV_V2", "NO_OPEN_SUPPORT", "POSIX_ACL"} <= set(names)
    assert "SECURITY_CTX" not in names
    assert "FUSE 7.33: " + " ".join(names) in caplog.text


PROBLEMS: list[tuple[str, InitFlag, SessionOptions, str]] = [
    ("switched off", EVERYTHING, SessionOptions(passthrough="off"), "passthrough=off"),
    ("not offered", V38, SessionOptions(), "this kernel does not offer it"),
]


@pytest.mark.parametrize(("name", "offered", "options", "reason"), PROBLEMS, ids=[row[0] for row in PROBLEMS])
def test_why_there_is_no_passthrough(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    offered: InitFlag,
    options: SessionOptions,
    reason: str,
) -> None:
    monkeypatch.setattr("unionfs.transport.direct.session.may_use_backing_files", lambda: True)
    kernel = start(offered=offered, options=options)
    assert reason in (kernel.session.passthrough_problem() or "")


def test_passthrough_needs_the_machine_s_root(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unionfs.transport.direct.session.may_use_backing_files", lambda: False)
    kernel = start(offered=EVERYTHING, options=SessionOptions())
    assert "PASSTHROUGH" not in kernel.session.flags()
    assert "CAP_SYS_ADMIN" in (kernel.session.passthrough_problem() or "")


OPENS: list[tuple[str, InitFlag, float | None, bool, bool]] = [
    ("handles wanted", EVERYTHING & ~F.NO_OPEN_SUPPORT & ~F.NO_OPENDIR_SUPPORT, None, False, False),
    ("opened without asking", EVERYTHING, None, True, True),
    ("directories only", EVERYTHING & ~F.HANDLE_KILLPRIV_V2, None, False, True),
    ("layers that change", EVERYTHING, 1.0, False, False),
]


@pytest.mark.parametrize(
    ("name", "offered", "timeout", "silent", "stateless"), OPENS, ids=[row[0] for row in OPENS]
)
def test_who_opens(
    start: Start,
    config: UnionConfig,
    name: str,
    offered: InitFlag,
    timeout: float | None,
    silent: bool,
    stateless: bool,
) -> None:
    """ENOSYS to an OPEN has the kernel open files by itself ever after: only where it knows that answer."""
    kernel = start(config=replace(config, timeout=timeout), offered=offered)
    node = kernel.node("file")
    opened = kernel.ask(Opcode.OPEN, node, p.OPEN_IN.pack(0, 0))
    assert opened.error == (errno.ENOSYS if silent else 0)
    opened = kernel.ask(Opcode.OPENDIR, body=p.OPEN_IN.pack(0, 0))
    assert opened.error == (errno.ENOSYS if stateless else 0)


def test_a_request_has_room_in_the_buffer() -> None:
    """fuse.ko refuses a read of the device with less room than max_write and the headers."""
    assert MAX_WRITE + p.BODY + p.WRITE_IN.size <= BUFFER_SIZE
    assert BUFFER_SIZE >= p.MIN_READ_BUFFER
