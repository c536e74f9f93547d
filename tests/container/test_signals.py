"""Signals to the command that runs a container, zombies in it, and what is left when something is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.container.boxes import TIMEOUT, Box, eventually, make_tree
from tests.support.mounts import needs_fuse, needs_root

pytestmark = needs_root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    tree = tmp_path_factory.mktemp("box") / "tree"
    make_tree(tree)
    return Box(tree)


@contextmanager
def started(box: Box, script: str, *, init: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A script that has printed `ready`."""
    with box.start("sh", "-c", script, init=init) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "ALRM", "ABRT", "WINCH"])
def test_a_signal_is_passed_on(name: str, box: Box) -> None:
    script = f"trap 'echo got; exit 4' {name}; echo ready; while :; do sleep 0.01; done"
    with started(box, script) as process:
        process.send_signal(signal.Signals[f"SIG{name}"])
        out, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (4, "got\n")


def test_a_program_without_a_handler_ends(box: Box) -> None:
    with started(box, "echo ready; exec sleep 60") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 128 + signal.SIGTERM


def test_process_1_itself_gets_the_signals_without_init(box: Box) -> None:
    script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done"
    with started(box, script, init=False) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 4


def test_zombies_are_reaped(box: Box) -> None:
    # The orphan's parent is process 1; what it leaves would be a zombie for as long as the container lives.
    # A zombie still has its directory in /proc: the loop ends when it has been reaped.
    script = """
        orphan=$(sh -c 'sleep 0.1 >/dev/null & echo $!')
        while test -d /proc/$orphan; do sleep 0.02; done
        ps -o pid,stat,comm
    """
    lines = [line.split() for line in box.shell(script).splitlines()[1:]]
    assert [line for line in lines if line[1].startswith("Z")] == []


def test_all_processes_end_with_the_first_one(box: Box, tmp_path: Path) -> None:
    # A pipe that a process has open is at its end when no process is left.
    assert box.shell("sleep 60 & echo there") == "there\n"


def pids_of(text: str) -> set[int]:
    """The processes whose command line has this text, but those that look for it."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@needs_fuse
@pytest.mark.one_transport
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_when_the_command_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    box = Box(tree, tmp_path)
    mark = f"61.{os.getpid()}s"  # with its end: another test's pid may begin as this one
    with started(box, f"echo data >/made; echo ready; exec sleep {mark}") as process:
        assert pids_of(mark)
        process.send_signal(number)
        process.wait(TIMEOUT)
    eventually(lambda: not pids_of(mark))
    # The daemon ends by itself; nothing has the layers' locks any more.
    assert box.shell("cat /made") == "data\n"


def test_the_command_can_be_ended_while_it_starts(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    with Box(tree).start("sleep", "60") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) != 0
