"""A systemd of the test's own, in namespaces: it has this machine's files, and none of its units.

Everything in it ends with it, and what it changed in the root directory was in memory. Nothing here touches
the systemd of the machine, if it has one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounts import REPOSITORY

PREPARE = Path(__file__).with_name("prepare.sh")
START_TIMEOUT = 30.0
RUN_TIMEOUT = 60.0


class Unavailable(Exception):
    """No systemd can be started here, and why."""


@dataclass(frozen=True)
class Machine:
    """One that runs. `pid` is its systemd's, `log` what that has to say."""

    pid: int
    log: Path

    def run(self, script: str, *, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Have a shell run this inside, as root; it must end with this status. None: with any."""
        done = subprocess.run(
            [*self._inside(), "/bin/bash", "-eu", "-o", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT,
        )
        assert status in (None, done.returncode), (
            f"{script}\nended with {done.returncode}:\n{done.stdout}\n--- systemd:\n{self.log.read_text()}"
        )
        return done

    def write(self, path: str, text: str) -> None:
        """Make a file inside, and the directories above it."""
        subprocess.run(
            [*self._inside(), "/bin/sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1"', "sh", path],
            input=text,
            text=True,
            check=True,
        )

    def eventually(self, condition: str) -> None:
        """Wait until this shell command succeeds inside."""
        self.run(f"for i in {{1..150}}; do if {condition}; then exit 0; fi; sleep 0.1; done; exit 1")

    def _inside(self) -> list[str]:
        names = ("mount", "pid", "uts", "ipc", "net", "cgroup")
        enter = ["nsenter", f"--target={self.pid}", *(f"--{name}" for name in names), "--root", "--wd"]
        return [*enter, "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]


@contextmanager
def machine() -> Iterator[Machine]:
    """Boot one, and end it with all that runs in it. Unavailable: it does not boot here."""
    with _cgroup() as cgroup, tempfile.TemporaryDirectory(prefix="pyunionfs-systemd-") as space:
        log = Path(space) / "log"
        (Path(space) / "root").mkdir()
        kinds = [f"--{kind}" for kind in ("mount", "pid", "uts", "ipc", "net", "cgroup")]
        words = ["unshare", *kinds, "--fork", "--kill-child", "--propagation=private"]
        with log.open("w") as output:
            started = subprocess.Popen(
                [*words, "sh", str(PREPARE), f"{space}/root", *_needed()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: (cgroup / "cgroup.procs").write_text("0"),
                start_new_session=True,
            )
        try:
            yield Machine(_wait_for_boot(started, log), log)
        finally:
            # With --kill-child its process 1 goes with it, and with that all others.
            started.kill()
            started.wait(START_TIMEOUT)


def _needed() -> list[str]:
    """The directories that running this checkout takes, those within another left out."""
    found = {Path(each).resolve() for each in (REPOSITORY, sys.prefix, sys.base_prefix)} - {Path("/usr")}
    return [str(each) for each in sorted(found) if found.isdisjoint(each.parents)]


def _wait_for_boot(started: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    while started.poll() is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            for pid in map(int, children.read_text().split()):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n" and _is_up(Machine(pid, log)):
                    return pid
        time.sleep(0.05)
    raise Unavailable(f"systemd does not start: {log.read_text()[-500:]}")


def _is_up(booted: Machine) -> bool:
    done = booted.run("systemctl is-active basic.target", status=None)
    return done.stdout.strip() == "active"


@contextmanager
def _cgroup() -> Iterator[Path]:
    """A cgroup (version 2) to start it in, removed with all that systemd makes below it."""
    mounted = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    roots = [Path(fields[4]) for fields in mounted if fields[fields.index("-") + 1] == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not roots or not own:
        raise Unavailable("no cgroup2 filesystem is mounted")
    path = roots[0] / own[0].lstrip("/") / f"pyunionfs-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise Unavailable(f"no cgroup can be made: {error}") from error
    try:
        yield path
    finally:
        _remove(path)


def _remove(cgroup: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    for path in sorted(cgroup.rglob("*"), reverse=True):
        if path.is_dir():
            _remove_one(path, deadline)
    _remove_one(cgroup, deadline)


def _remove_one(cgroup: Path, deadline: float) -> None:
    """A process that was killed may still be on its way out of it."""
    while True:
        try:
            cgroup.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
