"""What a failure becomes: an errno is handed on, a bug costs one request EIO and is logged, and all go on."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.rig import eventually
from tests.transport.direct.conftest import BIG, Gate, Start
from tests.transport.direct.kernel import Kernel
from tests.transport.direct.samples import SAMPLES, Scene
from unionfs.overlay.super import Union
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import Opcode

PLACES: list[tuple[str, Opcode]] = [
    ("lookup", Opcode.LOOKUP),
    ("getattr", Opcode.GETATTR),
    ("setattr", Opcode.SETATTR),
    ("readlink", Opcode.READLINK),
    ("symlink", Opcode.SYMLINK),
    ("mknod", Opcode.MKNOD),
    ("mkdir", Opcode.MKDIR),
    ("unlink", Opcode.UNLINK),
    ("rmdir", Opcode.RMDIR),
    ("rename", Opcode.RENAME),
    ("rename", Opcode.RENAME2),
    ("link", Opcode.LINK),
    ("open_file", Opcode.OPEN),
    ("statfs", Opcode.STATFS),
    ("sync_file", Opcode.FSYNC),
    ("setxattr", Opcode.SETXATTR),
    ("getxattr", Opcode.GETXATTR),
    ("listxattr", Opcode.LISTXATTR),
    ("removexattr", Opcode.REMOVEXATTR),
    ("open_dir", Opcode.OPENDIR),
    ("read_dir_plain", Opcode.READDIR),
    ("list_dir", Opcode.READDIRPLUS),
    ("sync_dir", Opcode.FSYNCDIR),
    ("create", Opcode.CREATE),
    ("tmpfile", Opcode.TMPFILE),
    ("statx", Opcode.STATX),
    ("syncfs_for_caller", Opcode.SYNCFS),
    ("get_flags", Opcode.IOCTL),
    ("allocate_job", Opcode.FALLOCATE),
    ("seek", Opcode.LSEEK),
    ("copy_range_job", Opcode.COPY_FILE_RANGE),
    ("copy_range_job", Opcode.COPY_FILE_RANGE_64),
]


def plant(monkeypatch: pytest.MonkeyPatch, method: str, what: BaseException) -> None:
    def fails(*_: object) -> object:
        raise what

    monkeypatch.setattr(Union, method, fails)


@pytest.mark.parametrize(("method", "opcode"), PLACES, ids=[row[1].name for row in PLACES])
def test_a_bug_costs_one_request(
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    opcode: Opcode,
) -> None:
    sample = SAMPLES[opcode](Scene(kernel))
    with monkeypatch.context() as patch:
        plant(patch, method, KeyError("nobody expected this"))
        assert kernel.ask(opcode, sample.node, sample.body).error == errno.EIO
        assert not kernel.drain(), "answered twice"
    assert f"{opcode.name}: unhandled exception, replied EIO" in caplog.text
    assert "KeyError: 'nobody expected this'" in caplog.text
    assert "Traceback (most recent call last)" in caplog.text
    answer = kernel.ask(opcode, sample.node, sample.body)
    assert answer.error in (0, sample.may_fail)


@pytest.mark.parametrize(
    "what", [MemoryError(), RecursionError(), AssertionError("wrong"), OSError("no number")]
)
def test_a_bug_of_any_kind(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, what: Exception) -> None:
    with monkeypatch.context() as patch:
        plant(patch, "lookup", what)
        assert kernel.ask(Opcode.LOOKUP, body=b"file\0").error == errno.EIO
    assert kernel.lookup(b"file").size == 10


ERRNOS: list[tuple[int, int]] = [
    (errno.ENOSPC, errno.ENOSPC),
    (errno.EPERM, errno.EPERM),
    (511, 511),
    (512, errno.EIO),  # ERESTARTSYS, which is the kernel's own
    (10_000, errno.EIO),
    (-5, errno.EIO),
    (0, errno.EIO),
]


@pytest.mark.parametrize(("raised", "told"), ERRNOS)
def test_an_errno_is_handed_on(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, raised: int, told: int
) -> None:
    """fuse.ko takes 1 to 511 only: whatever else were no answer, and whoever asks would hang."""
    plant(monkeypatch, "statfs", OSError(raised, "planted"))
    assert kernel.ask(Opcode.STATFS).error == told


def test_an_errno_is_not_logged(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plant(monkeypatch, "statfs", OSError(errno.ENOSPC, "planted"))
    kernel.ask(Opcode.STATFS)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "what", [3, "text", object(), [b"x"], (b"x", 5), {1: 2}], ids=lambda what: type(what).__name__
)
def test_an_answer_that_is_none(kernel: Kernel, caplog: pytest.LogCaptureFixture, what: Any) -> None:
    """A handler's bug too: the thread that reads requests must outlive it."""
    kernel.session._server._table[Opcode.STATFS] = lambda buffer, end, ino: what
    assert kernel.ask(Opcode.STATFS).error == errno.EIO
    assert "STATFS: unhandled exception, replied EIO" in caplog.text
    assert kernel.lookup(b"file").size == 10


def in_worker(kernel: Kernel, work: Callable[[], Any]) -> int:
    """Have *work* done for a request of its own; the errno of the answer."""
    server = kernel.session._server
    unique = kernel.unique()
    with server.lock:
        server.reply_later(server.syncers, Opcode.FSYNC, unique, work)
    return kernel.wait_for(unique).error


def raising(what: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise what

    return work


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: None, 0),
        (lambda: b"12345678", 0),
        (raising(OSError(errno.EDQUOT, "quota")), errno.EDQUOT),
        (raising(OSError(600, "strange")), errno.EIO),
        (raising(ValueError("a bug")), errno.EIO),
        (raising(SystemExit(1)), errno.EIO),
        (lambda: 5, errno.EIO),
        (lambda: "text", errno.EIO),
    ],
)
def test_in_a_worker(kernel: Kernel, work: Callable[[], Any], told: int) -> None:
    assert in_worker(kernel, work) == told
    assert in_worker(kernel, lambda: None) == 0
    assert eventually(lambda: kernel.session.pending_requests() == 0)


def test_a_bug_in_a_copy_up(kernel: Kernel, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    gate.failure = ZeroDivisionError("a bug")
    gate.open.set()
    node = kernel.node("big")
    body = p.OPEN_IN.pack(2, 0)
    assert kernel.ask(Opcode.OPEN, node, body).error == errno.EIO
    assert "OPEN: unhandled exception, replied EIO" in caplog.text
    gate.failure = None
    assert kernel.ask(Opcode.OPEN, node, body).error == 0


def test_a_bug_in_a_commit(kernel: Kernel, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is told; who else waits is tried again."""
    node = kernel.node("big")
    uniques = [kernel.send(Opcode.OPEN, node, p.OPEN_IN.pack(2, 0)) for _ in range(3)]
    assert gate.reached.wait(10)
    (task,) = kernel.session._server._waiting
    finish, calls = type(task).finish, []

    def fails_once(self: Any, error: BaseException | None) -> None:
        finish(self, error)
        calls.append(error)
        if len(calls) == 1:
            raise RuntimeError("a bug")

    monkeypatch.setattr(type(task), "finish", fails_once)
    gate.open.set()
    assert sorted(kernel.wait_for(unique).error for unique in uniques) == [0, 0, errno.EIO]


def test_no_thread_can_be_started(
    start: Start, layers: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on processes: what is waited for is done when the next thread can be started."""
    (layers / "lower/big too").write_bytes(b"b" * BIG)
    kernel = start()
    nodes = [kernel.node("big"), kernel.node("big too")]

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        first = kernel.send(Opcode.OPEN, nodes[0], p.OPEN_IN.pack(2, 0))
        assert kernel.drain() == {}
    assert "starting a worker thread failed: can't start new thread" in caplog.text
    assert kernel.lookup(b"file").size == 10
    second = kernel.send(Opcode.OPEN, nodes[1], p.OPEN_IN.pack(2, 0))
    assert [kernel.wait_for(unique).error for unique in (first, second)] == [0, 0]
