"""Each system call of each command that changes a store or layers fails once, and then all from there on.

Every time the command answers with one error line and a status that is not 0 or it has done all, the store is
whole and as before or as after, and the same command succeeds afterwards. The tiers plant few faults;
`PYUNIONFS_FAULTS=all` (`make faults`) plants every errno at every call.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.faults.calls import Fault
from tests.faults.commands import COMMANDS, Command
from tests.faults.store_rig import CommandRun
from tests.faults.test_union import ALL, CODES
from tests.support.mounts import needs_root

pytestmark = needs_root

QUICK = [command for command in COMMANDS if command.name in ("load", "rmi", "create", "check --repair")]


@pytest.fixture(autouse=True)
def _place(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both are changed by a run, and go back after it."""
    monkeypatch.setenv("PYUNIONFS_STORE", str(base / "store"))
    monkeypatch.chdir(base)
    yield
    os.chdir("/")


def _some(run: CommandRun, code: int | None, stays: bool, first: int, step: int) -> None:
    at = first
    while run.one(Fault(at, code, stays)):
        at += step


@pytest.mark.parametrize("command", QUICK, ids=lambda command: command.name)
def test_some_calls_fail(base: Path, command: Command) -> None:
    run = CommandRun(base, command)
    _some(run, errno.ENOSPC, False, 1 + zlib.crc32(command.name.encode()) % 61, 61)
    assert run.problems == []


@pytest.mark.parametrize("stays", [False, True], ids=["once", "all after"])
@pytest.mark.parametrize(
    "code", CODES if ALL else CODES[1:2], ids=lambda code: errno.errorcode.get(code, "short")
)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_call_fails(base: Path, command: Command, code: int | None, stays: bool) -> None:
    run = CommandRun(base, command)
    _some(run, code, stays, 1 if ALL else 1 + zlib.crc32(command.name.encode()) % 29, 1 if ALL else 29)
    assert run.problems == []
