"""What a container is doing: derived from its recorded process, which a crash cannot leave "running"."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from unionfs.linux.process import open_pidfd


class Run(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """state.json: one start, and its end once that has come."""

    pid: int
    """Of the container's first process, as the host sees it; 0: none was started."""
    born: str
    """What tells the process from a later one with the same pid (`identity`)."""
    started: str
    finished: str | None = None
    exit_code: int | None = None
    error: str = ""
    """Why it could not be started."""


@dataclass(frozen=True, slots=True)
class State:
    """The words are Docker's: `created`, `running` or `exited`."""

    status: str
    pid: int = 0
    started: str | None = None
    finished: str | None = None
    exit_code: int | None = 0
    """None: the end was not recorded, as the command that waited for it was killed."""
    error: str = ""

    @property
    def running(self) -> bool:
        return self.status == "running"

    @classmethod
    def of(cls, run: Run | None) -> State:
        """The state by the last start; None: there was none."""
        if run is None:
            return cls("created")
        if run.finished is None and run.pid and identity(run.pid) == run.born:
            return cls("running", run.pid, run.started)
        code = run.exit_code
        if run.error:
            return cls("created", 0, None, None, code, run.error)
        return cls("exited", 0, run.started, run.finished, code, run.error)

    def open(self) -> int | None:
        """A pidfd of the running process, which is no other one's; None: it has ended meanwhile."""
        born = identity(self.pid)
        pidfd = open_pidfd(self.pid) if self.pid else None
        if pidfd is not None and (born is None or identity(self.pid) != born):
            os.close(pidfd)
            return None
        return pidfd


def identity(pid: int) -> str | None:
    """Boot and start of a process (proc(5), field 22), which no later one of that pid has. None: it ended.

    A zombie has ended: only its parent has not looked yet.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
            return None if fields[0] in "ZX" else f"{boot.read().strip()}:{fields[19]}"
    except (FileNotFoundError, ProcessLookupError):
        return None


def now() -> str:
    """The time as image configs have it, UTC in nanoseconds."""
    at = datetime.now(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
