"""The end of a session: what is under way ends well, what has not begun leaves nothing, nobody reads on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.rig import eventually
from tests.transport.direct.conftest import BIG, Gate, Start
from tests.transport.direct.kernel import PATIENCE, SILENT, Kernel
from unionfs.overlay.inode import File
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import Opcode

OPEN = p.OPEN_IN.pack(os.O_RDWR, 0)


@pytest.fixture
def bigs(layers: Path) -> list[str]:
    """More lower files than there are workers for their copy-ups."""
    names = [f"big{number}" for number in range(7)]
    for name in names:
        (layers / "lower" / name).write_bytes(b"b" * BIG)
    return names


def in_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def temporaries(layers: Path) -> list[str]:
    return [name for name in os.listdir(layers / "work/work") if name != "incompat"]


def test_a_copy_up_that_runs_is_waited_for(kernel: Kernel, gate: Gate, layers: Path) -> None:
    kernel.send(Opcode.OPEN, kernel.node("big"), OPEN)
    assert gate.reached.wait(PATIENCE)
    kernel.hang_up()
    closing = in_thread(kernel.session.close)
    closing.join(0.2)
    assert closing.is_alive(), "the layers would be closed under the worker"
    gate.open.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert (layers / "upper/big").read_bytes() == b"b" * BIG
    assert kernel.session.pending_requests() == 0
    kernel.end(closed=True)


def test_copy_ups_that_have_not_begun_leave_nothing(
    start: Start, gate: Gate, layers: Path, bigs: list[str]
) -> None:
    kernel = start()
    nodes = [kernel.node(name) for name in bigs]
    for node in nodes:
        kernel.send(Opcode.OPEN, node, OPEN)
    kernel.drain()
    assert kernel.session.pending_requests() == 7
    kernel.hang_up()
    closing = in_thread(kernel.session.close)
    assert eventually(lambda: kernel.session._server._stopped)
    gate.open.set()
    closing.join(PATIENCE)
    done = sorted(os.listdir(layers / "upper"))
    assert 4 <= len(done) <= 7
    assert temporaries(layers) == []
    for node in nodes:
        inode = kernel.union.fs.table.get(node)
        assert isinstance(inode, File)
        assert inode.pending is None
        assert inode.on_upper == (inode.name.decode() in done)
    kernel.end(closed=True)


@pytest.fixture
def stuck_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """fsync(2) that takes until the event is set."""
    event = threading.Event()
    real = os.fsync

    def slow(fd: int) -> None:
        assert event.wait(PATIENCE)
        real(fd)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr("unionfs.overlay.super.Union.sync_file", lambda self, file: os.dup(file.fd))
    yield event
    event.set()


def test_syncs_are_done_before_the_end(kernel: Kernel, stuck_sync: threading.Event) -> None:
    """More than there are workers, so that some have not begun: they hold descriptors, and somebody waits."""
    made, fh = kernel.create(b"new")
    uniques = [kernel.send(Opcode.FSYNC, made.node, p.FSYNC_IN.pack(fh, 0, 0)) for _ in range(20)]
    kernel.drain()
    assert kernel.session.pending_requests() == 20
    kernel.hang_up()
    closing = in_thread(kernel.session.close)
    assert eventually(lambda: kernel.session._server._stopped)
    stuck_sync.set()
    closing.join(PATIENCE)
    assert [kernel.wait_for(unique).error for unique in uniques] == [0] * 20
    kernel.end(closed=True)


def test_a_request_that_comes_while_it_ends(kernel: Kernel, gate: Gate, layers: Path) -> None:
    """It is not begun: the kernel tells whoever asked that the connection is gone."""
    kernel.send(Opcode.OPEN, kernel.node("big"), OPEN)
    assert gate.reached.wait(PATIENCE)
    closing = in_thread(kernel.session.close)
    assert eventually(lambda: kernel.session._server._stopped)
    kernel.send(Opcode.MKDIR, body=p.MKDIR_IN.pack(0o755, 0) + b"new\0")
    assert kernel.over.wait(PATIENCE)
    gate.open.set()
    closing.join(PATIENCE)
    assert not (layers / "upper/new").exists()
    kernel.session.raise_failure()
    kernel.end(closed=True)


def test_whoever_waits_for_a_copy_up_is_not_begun_anew(kernel: Kernel, gate: Gate, layers: Path) -> None:
    kernel.send(Opcode.SYMLINK, body=b"other\0x\0")
    waiting = kernel.send(Opcode.LINK, body=p.LINK_IN.pack(kernel.node("big")) + b"new\0")
    assert gate.reached.wait(PATIENCE)
    kernel.hang_up()
    closing = in_thread(kernel.session.close)
    assert eventually(lambda: kernel.session._server._stopped)
    gate.open.set()
    closing.join(PATIENCE)
    assert not (layers / "upper/new").exists()
    assert waiting not in kernel._early
    kernel.end(closed=True)


def test_the_device_s_number_becomes_nobody_else_s(kernel: Kernel) -> None:
    """The thread may be about to read it: it must not read somebody's file instead."""
    fd = kernel.session._server.fd
    device = os.fstat(fd).st_ino
    assert not kernel.over.is_set()
    kernel.session.close()
    assert os.fstat(fd).st_ino != device
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    assert fd not in others
    # If it sleeps in its read, a request wakes it, which it does not answer; else it has found the end.
    with contextlib.suppress(BrokenPipeError):
        kernel.send(Opcode.STATFS)
    assert kernel.over.wait(PATIENCE)
    kernel.session.raise_failure()
    for other in (*others, fd):
        os.close(other)
    kernel.end(closed=True)


def test_before_it_has_begun(start: Start) -> None:
    """A mount that is refused at once."""
    kernel = start(init=False)
    kernel.hang_up()
    fd = kernel.session._server.fd
    kernel.session.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    kernel.end(closed=True)


HARMLESS = [errno.ENOENT, errno.EINTR, errno.EAGAIN]
OVER = [errno.ENODEV, errno.ECONNABORTED]
BROKEN = [errno.EIO, errno.EBADF, errno.EINVAL]


@pytest.mark.parametrize("code", [*HARMLESS, *OVER, *BROKEN], ids=lambda code: errno.errorcode[code])
def test_what_reading_the_device_may_say(start: Start, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """ENOENT: the request was taken back; ENODEV: it is unmounted; ECONNABORTED: somebody has aborted it."""
    real = os.readv
    said: list[int] = []

    def readv(fd: int, buffers: list[bytearray]) -> int:
        if len(said) < 3:
            said.append(code)
            raise OSError(code, os.strerror(code))
        return real(fd, buffers)

    monkeypatch.setattr(os, "readv", readv)
    kernel = start(init=False)
    if code in HARMLESS:
        assert kernel.init(SILENT).error == 0
        assert kernel.lookup(b"file").size == 10
        return
    assert kernel.over.wait(PATIENCE)
    if code in OVER:
        kernel.session.raise_failure()
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            kernel.session.raise_failure()
        kernel.session._failure = None


def test_an_answer_that_nobody_wants_any_more(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asked was killed; of a device ENOENT says so, of this socket EPIPE: that is told, and all."""
    kernel._socket.shutdown(socket.SHUT_RD)
    kernel.send(Opcode.STATFS)
    assert eventually(lambda: "write to /dev/fuse failed" in caplog.text)
    assert not kernel.over.is_set()


def test_the_pool_is_closed(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever still wants a worker then gets none, and nothing is raised in the thread of requests."""
    kernel.hang_up()
    kernel.session.close()
    server = kernel.session._server
    server.submit(server.readers, lambda: None)
    assert "starting a worker thread failed: cannot schedule new futures after shutdown" in caplog.text
    kernel.end(closed=True)


def test_handles_are_let_go(kernel: Kernel) -> None:
    """Of files and directories that are open when it ends; the fixture sees descriptors that are left."""
    for number in range(5):
        kernel.create(b"new%d" % number)
        kernel.opendir()
    assert kernel.session.open_handles() == 10
    kernel.hang_up()
    kernel.session.close()
    assert kernel.session.open_handles() == 0
    kernel.end(closed=True)
