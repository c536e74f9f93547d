"""A short soak run, as `make soak` makes it, with a leak beside it that the report must name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.soak import report, samples
from testing.soak.figures import ALL, FIGURES, MACHINE
from testing.soak.union import KINDS
from testing.soak.verdict import GROWS
from tests.support.mounts import REPOSITORY, environment, needs_fuse, needs_overlayfs, needs_root

pytestmark = [needs_root, needs_fuse, needs_overlayfs]

SECONDS = 20.0
LOOKED = "unmounted, and looked at by check and by kernel overlayfs"
LEAKS = ("resident", "private", "descriptors", "threads")


@pytest.fixture
def leak() -> Iterator[int]:
    """The pid of a process that leaks."""
    program = Path(__file__).with_name("leaking.py")
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE) as process:
        yield process.pid


def has_all(run: samples.Run) -> bool:
    """Whether so much has happened that a run may end."""
    there = {word for _, word, _ in run.notes}
    return run.seconds >= SECONDS and {"daemons killed", LOOKED, "mounts that lasted a moment"} <= there


def words_of(pid: str) -> bytes:
    """The command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_a_run_measures_verifies_and_names_a_leak(leak: int, tmp_path: Path) -> None:
    out, space = tmp_path / "out", tmp_path / "space"
    space.mkdir()
    words = ["--hours", "0.1", "--clients", "4", "--interval", "0.5", "--pace", "0.5", "--shared"]
    words += ["--directory", str(space), "--out", str(out), "--watch", f"leak={leak}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "testing.soak", *words],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    path = out / "samples.jsonl"
    deadline = time.monotonic() + 240
    while process.poll() is None and not (path.exists() and has_all(samples.read(path))):
        assert time.monotonic() < deadline, path.read_text()[-4000:]
        time.sleep(0.2)
    # As Ctrl-C does: it ends early, and has its report.
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 1, said

    run = samples.read(path)
    assert has_all(run)
    assert "**no fault**" in said
    assert said.strip().endswith((out / "report.md").read_text().strip())
    verdicts = {row.series: row.verdict.word for row in report.rows(run)}
    assert {name: word for name, word in verdicts.items() if name.startswith("leak ")} == {
        f"leak {figure}": GROWS for figure in LEAKS
    }

    owners = [*(kind.name for kind in KINDS), ALL, MACHINE]
    assert {name.partition(" ")[0] for name in run.series} == {*owners, "leak"}
    assert {name.partition(" ")[2] for name in run.series} == set(FIGURES)
    assert run.count(LOOKED) >= len(KINDS) + 2
    assert run.count("mounts") >= len(KINDS) + 2
    assert "<polyline" in (out / "plot.svg").read_text()

    assert os.listdir(space) == []
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and os.fsencode(space) in words_of(pid)] == []


def test_the_report_of_a_run_is_written_again(tmp_path: Path) -> None:
    writer = samples.Writer(tmp_path / "samples.jsonl", {"seed": "1"})
    for minute in range(60):
        writer.sample(minute * 60.0, {"steady threads": 4.0, "steady work": float(minute)})
    done = subprocess.run(
        [sys.executable, "-m", "testing.soak", "--report", str(tmp_path)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "**GROWS: steady work**" in done.stdout
    assert (tmp_path / "report.md").exists()
