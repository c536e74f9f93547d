"""What a handler makes of failures and of slow work: a bug costs one request, and is logged."""

from __future__ import annotations

import errno
import logging

import pyfuse3
import pytest
import trio

from unionfs.overlay.wait import Owner, Task, Wait, give_up
from unionfs.transport.pyfuse3.handlers import op, slow_op


class SlowWork:
    """A task that is done once it was run and finished."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def run(self) -> None:
        self.steps.append("run")

    def finish(self, error: BaseException | None) -> None:
        self.steps.append("finish")


class FakeServer:
    """As much of a transport as handlers need."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.debug = False
        self.task = SlowWork()
        self.answers = 0

    async def run_task(self, task: Task, opcode: str) -> None:
        task.run()
        task.finish(None)

    async def give_up(self, owner: Owner, task: Task) -> None:
        give_up(owner, task)

    def after_operation(self) -> None:
        self.answers += 1

    @op("GOOD")
    def good(self, number: int) -> int:
        return number + 1

    @op("BAD")
    def bad(self) -> None:
        raise OSError(errno.ENOTEMPTY, "not empty")

    @op("BUG")
    def bug(self) -> None:
        raise KeyError("nobody expected this")

    @op("SLOW")
    def slow(self) -> str:
        if not self.task.steps:
            raise Wait(self.task)
        return "done"

    @slow_op("LATE")
    async def late(self, what: BaseException) -> None:
        await trio.sleep(0)
        raise what


def test_an_answer_is_handed_on_and_counted() -> None:
    server = FakeServer()
    assert trio.run(server.good, 1) == 2
    assert (server.counts, server.answers) == ({"GOOD": 1}, 1)


def test_an_errno_is_handed_on() -> None:
    with pytest.raises(pyfuse3.FUSEError) as failure:
        trio.run(FakeServer().bad)
    assert failure.value.errno == errno.ENOTEMPTY


def test_a_bug_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    with caplog.at_level(logging.ERROR), pytest.raises(pyfuse3.FUSEError) as failure:
        trio.run(server.bug)
    assert failure.value.errno == errno.EIO
    assert "BUG: unhandled exception, replied EIO" in caplog.text
    assert "nobody expected this" in caplog.text
    assert "Traceback" in caplog.text
    assert trio.run(server.good, 1) == 2


@pytest.mark.parametrize(
    ("what", "code"), [(OSError(errno.EDQUOT, "quota"), errno.EDQUOT), (ValueError("oops"), errno.EIO)]
)
def test_a_late_failure(what: BaseException, code: int) -> None:
    with pytest.raises(pyfuse3.FUSEError) as failure:
        trio.run(FakeServer().late, what)
    assert failure.value.errno == code


def test_an_operation_is_called_again_after_its_slow_work() -> None:
    server = FakeServer()
    assert trio.run(server.slow) == "done"
    assert server.task.steps == ["run", "finish"]
    assert (server.counts, server.answers) == ({"SLOW": 1}, 1)
