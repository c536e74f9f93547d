"""Slow work that is under way, for `status`: what it is, on which path, and how far it is.

Only work that a worker does anyway is noted, so that nothing quick pays for it. The state thread adds and
removes; the worker that is at it sets `done` and `step` and nothing else; any thread may read at any time.
Nothing may wait for, or be decided by, what is written here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypedDict

from unionfs.overlay.inode import ROOT_INO, Inode

COPY_UP = "copy_up"
LISTING = "listing"
RENAME = "rename"
"""Kinds of work: a file's data goes to upper; the names of a huge directory are read; a directory of a lower
is renamed by copying it."""

WAITING = "waiting"
COPYING = "copying"
WRITING_OUT = "writing_out"
READING = "reading"
"""What is done of it now: nothing, for the workers are busy; bytes are copied; they are brought to the disk;
names are read."""


class Report(TypedDict):
    """One work as `status --json` shows it. `done` and `total` are bytes; None: not known."""

    work: str
    path: str
    step: str
    done: int | None
    total: int | None
    seconds: float


class SlowWork:
    """One piece of slow work. The path is the one that its object had when it began, None without a name."""

    __slots__ = ("_begun", "done", "kind", "path", "step", "total")

    def __init__(self, kind: str, inode: Inode, total: int | None) -> None:
        self.kind = kind
        self.step = WAITING
        self.path = path_of(inode)
        self.total = total
        self.done = 0
        self._begun = time.monotonic()

    def enter(self, step: str) -> Callable[[int], None]:
        """The worker begins with this step; what to report to how far it has come. Any thread."""
        self.step = step
        return self.come_to

    def come_to(self, at: int) -> None:
        """The worker has come so far, in bytes. Any thread."""
        self.done = at

    def report(self) -> Report:
        total = self.total
        return {
            "work": self.kind,
            "path": os.fsdecode(self.path),
            "step": self.step,
            "done": None if total is None else min(self.done, total),
            "total": total,
            "seconds": round(time.monotonic() - self._begun, 1),
        }


class UnderWay:
    """All slow work of one union."""

    __slots__ = ("_works",)

    def __init__(self) -> None:
        self._works: list[SlowWork] = []

    def begin(self, kind: str, inode: Inode, total: int | None = None) -> SlowWork:
        """Note work that a worker is about to begin. State thread only."""
        work = SlowWork(kind, inode, total)
        self._works.append(work)
        return work

    def end(self, work: SlowWork | None) -> None:
        """It has ended, well or badly; None: it was not noted. State thread only."""
        if work is not None:
            self._works.remove(work)

    def report(self) -> list[Report]:
        """The longest first. Any thread."""
        return [work.report() for work in self._works.copy()]


def path_of(inode: Inode) -> bytes:
    """Where the object is, from the root of the union (`/`); empty for one that lost its names."""
    names: list[bytes] = []
    at = inode
    while at.parent is not None:
        names.append(at.name)
        at = at.parent
    if at.ino != ROOT_INO:
        return b""
    return b"/" + b"/".join(reversed(names))
