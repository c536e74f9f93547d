"""Commands whose caller has closed standard input, output or error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, command, environment, needs_fuse, status_pid
from tests.support.transports import one_transport

CLOSED = ("<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-")


def with_closed(closed: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**environment(), "PYTHONUNBUFFERED": ""},
        check=False,
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_what_cannot_be_printed_is_an_error(closed: str) -> None:
    done = with_closed(closed, *command("--version"))
    prints = ">&-" not in closed.replace("2>&-", "")
    assert done.returncode == (0 if prints else 1)
    assert done.stdout.startswith("pyunionfs ") == prints
    expected = "" if prints or "2>&-" in closed else "pyunionfs: standard output: Bad file descriptor\n"
    assert done.stderr == expected


def test_a_full_disk_is_said() -> None:
    done = with_closed(">/dev/full", *command("--version"))
    assert (done.returncode, done.stderr) == (
        1,
        "pyunionfs: standard output: No space left on device; make room on that filesystem\n",
    )


def test_errors_that_cannot_be_printed_are_a_status() -> None:
    done = with_closed("2>&-", *command("status", "/nonexistent"))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_helper_says_the_same() -> None:
    call = "from unionfs.cli.mount_helper import command; command()"
    done = with_closed(">&-", sys.executable, "-c", call, "--version")
    assert (done.returncode, done.stdout) == (1, "")


@needs_fuse
@one_transport
@pytest.mark.parametrize("closed", CLOSED)
def test_no_file_of_a_daemon_has_such_a_number(tmp_path: Path, closed: str) -> None:
    """What is printed would be written into it."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    places = [str(tmp_path / name) for name in ("lower", "upper", "work", "merged")]
    done = with_closed(closed, *command("mount", *places))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    try:
        (tmp_path / "merged" / "file").write_text("content")
        pid = status_pid(tmp_path / "merged")
        assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    finally:
        subprocess.run(command("umount", places[-1]), check=True, env=environment(), cwd=REPOSITORY)
    assert (tmp_path / "upper" / "file").read_text() == "content"
