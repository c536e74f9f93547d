"""What the tests of a mount's life share: commands, daemons, and waiting for what must come."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import transports
from tests.support.mounts import REPOSITORY, command, environment, status_pid

PATIENCE = 15.0


def run(*words: str | Path, status: int | None = 0, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """One pyunionfs command, which must end with this status; None: with any."""
    done = subprocess.run(
        command(*map(str, words)), capture_output=True, text=True, timeout=60, env=environment(), **keywords
    )
    assert status in (None, done.returncode), f"{words} ended with {done.returncode}: {done.stderr}"
    return done


def mount(base: Path, *options: str) -> int:
    """Mount in the background; the daemon's pid."""
    run("mount", *options, base / "lower", base / "upper", base / "work", base / "merged")
    return status_pid(base / "merged")


def statuses(*words: str | Path) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = json.loads(run("status", "--json", *words).stdout)
    return answer


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def foreground(base: Path, *options: str) -> subprocess.Popen[str]:
    """A daemon in the foreground that serves."""
    words = ["mount", "-f", *options, *(str(base / name) for name in ("lower", "upper", "work", "merged"))]
    daemon = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, env=environment())
    assert daemon.stderr is not None
    line = daemon.stderr.readline()
    assert "is mounted" in line, line + daemon.stderr.read()
    return daemon


@contextmanager
def gated(base: Path, patch: str) -> Iterator[Path]:
    """A mount by a `program` whose work waits for the file `gate`; the gate opens before the unmount."""
    subprocess.run(program(patch, base), cwd=REPOSITORY, check=True, timeout=30)
    try:
        yield base / "merged"
    finally:
        (base / "gate").touch()
        run("umount", base / "merged")


def program(patch: str, base: Path, *options: str) -> list[str]:
    """A pyunionfs whose transport has been changed first, to see what a bug does."""
    names = ("lower", "upper", "work", "merged")
    words = ["mount", *transports.mount_words(), *options, *(str(base / name) for name in names)]
    # Both have a `Session`, with the same face.
    lines = [f"import sys, trio, unionfs.transport.{transports.chosen()} as t", patch]
    lines.append("from unionfs.cli import main")
    return [sys.executable, "-c", "\n".join([*lines, f"sys.exit(main({words!r}))"])]
