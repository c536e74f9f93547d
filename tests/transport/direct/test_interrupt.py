"""INTERRUPT: only a signal that kills ends somebody's waiting; the slow work itself is done once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.rig import eventually
from tests.transport.direct.conftest import BIG, Gate, Start
from tests.transport.direct.kernel import PATIENCE, SILENT, Kernel
from unionfs.transport.direct import interrupts
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import Opcode

DEAD = 4194303
"""A process number that the tests say is being killed."""


@pytest.fixture(autouse=True)
def _who_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "sigkill_pending", lambda pid: pid == DEAD)


def write_open(kernel: Kernel, pid: int | None = None) -> int:
    """Ask for the big lower file to be opened for writing, and do not wait."""
    return kernel.send(Opcode.OPEN, kernel.node("big"), p.OPEN_IN.pack(os.O_RDWR, 0), pid=pid)


def test_a_killed_caller_gets_eintr_and_the_copy_up_goes_on(kernel: Kernel, gate: Gate, layers: Path) -> None:
    waiting = write_open(kernel, DEAD)
    assert gate.reached.wait(PATIENCE)
    assert kernel.session.pending_requests() == 1
    kernel.interrupt(waiting)
    assert kernel.wait_for(waiting).error == errno.EINTR
    assert kernel.session.pending_requests() == 0
    assert not (layers / "upper/big").exists()
    gate.open.set()
    # Who asks next gets what is being done already.
    answer = kernel.wait_for(write_open(kernel))
    assert answer.error == 0
    assert gate.passed == 1
    assert (layers / "upper/big").read_bytes() == b"b" * BIG
    assert not kernel.drain()


def test_any_other_signal_waits_on(kernel: Kernel, gate: Gate) -> None:
    waiting = write_open(kernel)
    interrupted = kernel.interrupt(waiting)
    assert kernel.drain() == {}
    gate.open.set()
    assert kernel.wait_for(waiting).error == 0
    assert interrupted not in kernel.drain()


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_the_others_wait_on(kernel: Kernel, gate: Gate, killed: int) -> None:
    """Three wait for one copy-up, by different operations, and one is killed."""
    node = kernel.node("big")
    mode = p.SETATTR_IN.pack(p.FATTR_MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o600, 0, 0, 0, 0)
    asks: list[tuple[Opcode, int, bytes]] = [
        (Opcode.OPEN, node, p.OPEN_IN.pack(os.O_WRONLY, 0)),
        (Opcode.SETATTR, node, mode),
        (Opcode.LINK, p.ROOT_ID, p.LINK_IN.pack(node) + b"other\0"),
    ]
    uniques = [kernel.send(*ask, pid=DEAD if place == killed else None) for place, ask in enumerate(asks)]
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(uniques[killed])
    assert kernel.wait_for(uniques.pop(killed)).error == errno.EINTR
    assert kernel.session.pending_requests() == 2
    gate.open.set()
    assert [kernel.wait_for(unique).error for unique in uniques] == [0, 0]
    assert gate.passed == 1


def test_who_is_killed_after_another_signal(
    kernel: Kernel, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of the first signal only."""
    dying: list[int] = []
    monkeypatch.setattr(interrupts, "sigkill_pending", lambda pid: pid in dying)
    waiting, other = write_open(kernel, 77), write_open(kernel, 78)
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(waiting)
    kernel.interrupt(other)
    assert kernel.drain() == {}
    dying += [77, 79]
    assert kernel.wait_for(waiting).error == errno.EINTR
    gate.open.set()
    assert kernel.wait_for(other).error == 0
    assert eventually(lambda: not kernel.session._server._interrupts._polling), "it looks for ever"


def test_a_killed_rename_has_not_happened(kernel: Kernel, gate: Gate) -> None:
    node = kernel.node("big")
    waiting = kernel.send(Opcode.RENAME, body=p.RENAME_IN.pack(p.ROOT_ID) + b"big\0new\0", pid=DEAD)
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(waiting)
    assert kernel.wait_for(waiting).error == errno.EINTR
    gate.open.set()
    kernel.wait_for(write_open(kernel))
    assert kernel.lookup(b"big").node == node
    assert kernel.lookup(b"new").node == 0


def test_without_handles(start: Start, gate: Gate) -> None:
    """Where the kernel opens files by itself, the first WRITE is what copies up."""
    kernel = start(offered=SILENT)
    node = kernel.node("big")
    body = p.WRITE_IN.pack(0, 0, 1, 0, 0, 0, 0) + b"x"
    waiting = kernel.send(Opcode.WRITE, node, body, pid=DEAD)
    other = kernel.send(Opcode.WRITE, node, body)
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(waiting)
    assert kernel.wait_for(waiting).error == errno.EINTR
    gate.open.set()
    assert kernel.wait_for(other).error == 0
    assert gate.passed == 1
    assert kernel.read(node, 0, size=3) == b"xbb"


def test_a_failure_goes_to_the_first_that_still_waits(kernel: Kernel, gate: Gate) -> None:
    """The second of them is tried anew."""
    gate.failure = OSError(errno.ENOSPC, "full")
    killed, first, second = write_open(kernel, DEAD), write_open(kernel), write_open(kernel)
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(killed)
    assert kernel.wait_for(killed).error == errno.EINTR
    gate.open.set()
    assert kernel.wait_for(first).error == errno.ENOSPC
    assert kernel.wait_for(second).error == errno.ENOSPC
    assert gate.passed == 2
    gate.failure = None
    assert kernel.wait_for(write_open(kernel)).error == 0


def test_a_failure_that_nobody_waits_for_is_logged(
    kernel: Kernel, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.failure = OSError(errno.ENOSPC, "full")
    waiting = write_open(kernel, DEAD)
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(waiting)
    kernel.wait_for(waiting)
    gate.open.set()
    said = "task without a waiting request failed: OSError(28, 'full')"
    assert eventually(lambda: said in caplog.text)
    gate.failure = None
    assert kernel.wait_for(write_open(kernel)).error == 0


UNKNOWN: list[Callable[[int], int]] = [
    lambda waiting: 0,
    lambda waiting: 999999,
    lambda waiting: waiting | 1,
    lambda waiting: (1 << 64) - 1,
]


@pytest.mark.parametrize("wrong", UNKNOWN)
def test_an_interrupt_for_an_unknown_request(kernel: Kernel, gate: Gate, wrong: Callable[[int], int]) -> None:
    waiting = write_open(kernel, DEAD)
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(wrong(waiting))
    assert kernel.drain() == {}
    gate.open.set()
    assert kernel.wait_for(waiting).error == 0


def test_an_interrupt_for_one_that_was_answered(kernel: Kernel, gate: Gate) -> None:
    unique = kernel.send(Opcode.GETATTR, body=p.GETATTR_IN.pack(0, 0, 0), pid=DEAD)
    kernel.wait_for(unique)
    kernel.interrupt(unique)
    assert kernel.drain() == {}


def test_twice(kernel: Kernel, gate: Gate) -> None:
    waiting = write_open(kernel, DEAD)
    assert gate.reached.wait(PATIENCE)
    for _ in range(3):
        kernel.interrupt(waiting)
    assert kernel.wait_for(waiting).error == errno.EINTR
    assert kernel.drain() == {}, "answered twice"


def test_before_the_work_is_begun(kernel: Kernel, gate: Gate, layers: Path) -> None:
    """More copies than there are workers: the last waits for one of them to be free."""
    for number in range(6):
        (layers / f"lower/big{number}").write_bytes(b"b" * BIG)
    uniques = [
        kernel.send(Opcode.OPEN, kernel.node(f"big{number}"), p.OPEN_IN.pack(os.O_RDWR, 0), pid=DEAD)
        for number in range(6)
    ]
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(uniques[-1])
    assert kernel.wait_for(uniques.pop()).error == errno.EINTR
    gate.open.set()
    assert [kernel.wait_for(unique).error for unique in uniques] == [0] * 5


@pytest.mark.parametrize("pid", [0, 1, 4194304, 2**32 - 1], ids=["unseen", "init", "nobody", "impossible"])
def test_who_is_not_known_to_die_is_waited_for(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is somebody of a PID namespace that we do not see."""
    monkeypatch.undo()
    assert not interrupts.sigkill_pending(pid)
    assert not interrupts.sigkill_pending(os.getpid())
