"""The processes that work in the unions: each draws a union and a job, again and again, until it is stopped.

A failure while a daemon is killed is expected, and the job recovers the next time. Any other one is a fault.
Must use a union only between `enter` and `leave` of its gate, and leave it by itself.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

from testing.crash.rig import GONE
from testing.soak.gate import Age
from testing.soak.jobs import CopyUps, Job, Listings, Place, RandomOperations
from testing.soak.programs import kinds
from testing.soak.report import FAULT
from testing.soak.samples import Writer
from testing.soak.trees import ProgramFailed
from testing.soak.union import SoakUnion

NO_AGE = Age(kills=0, uppers=-1)
"""Before the first job."""


@dataclass
class Desk:
    """What one client has in one union."""

    union: SoakUnion
    age: Age = NO_AGE
    jobs: list[Job] = field(default_factory=list)
    cut: set[Job] = field(default_factory=set)
    """Jobs that a kill has interrupted."""


class Client:
    """One client; `run` is what its process does."""

    def __init__(
        self,
        number: int,
        unions: Sequence[SoakUnion],
        scratch: Path,
        seed: str,
        notes: Writer,
        started: float,
    ) -> None:
        self.number = number
        self.rng = random.Random(f"{seed} client {number}")
        self.desks = [Desk(union) for union in unions]
        self.scratch = scratch / f"c{number}"
        self.notes = notes
        self.started = started

    def run(self, stop: Event) -> None:
        """Work until *stop* is set; which it is by a fault, too."""
        conductor = os.getppid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.umask(0)
        self.scratch.mkdir(parents=True)
        try:
            while not stop.is_set() and os.getppid() == conductor:
                # Some gate is open mostly; all are closed for the first moment and the last.
                if not self.work(self.rng.choice(self.desks)):
                    stop.wait(0.05)
        except Exception:
            self._note(FAULT, f"client {self.number}: {traceback.format_exc()}")
            stop.set()

    def work(self, desk: Desk) -> bool:
        """One job in this union; False where it is closed."""
        age = desk.union.gate.enter()
        if age is None:
            return False
        try:
            if age.uppers != desk.age.uppers:
                desk.jobs, desk.cut = self._jobs(desk.union), set()
            desk.age = age
            job = self.rng.choice([each for each in desk.jobs if each.ready()])
            self._do(desk, job)
        finally:
            os.chdir("/")
            desk.union.gate.leave()
        return True

    def _do(self, desk: Desk, job: Job) -> None:
        where = f"{job.kind} in {desk.union.kind.name}"
        try:
            if job in desk.cut:
                job.recover()
                desk.cut.discard(job)
                self._note("recovered after a kill", where)
            job.run()
            self._note(f"jobs: {job.kind}", where)
        except (OSError, ProgramFailed) as error:
            killed = desk.union.gate.age().kills != desk.age.kills
            if not killed or (isinstance(error, OSError) and error.errno not in GONE):
                raise
            desk.cut.add(job)
            self._note("jobs cut short by a kill", f"{where}: {error}")

    def _jobs(self, union: SoakUnion) -> list[Job]:
        """All kinds, as they begin on a fresh upper."""
        outside = self.scratch, self.rng
        batches = union.gate.next_batch, union.batches
        place = Place(union.merged, self.number, union.ground, *outside, *batches)
        model = union.ground.models[self.number].copy()
        model.metacopy = "metacopy=on" in union.options
        model.writes_die = union.writes_die
        return [
            RandomOperations(place, model),
            Listings(place),
            CopyUps(place),
            *(each(place) for each in kinds()),
        ]

    def _note(self, what: str, text: str) -> None:
        self.notes.note(time.monotonic() - self.started, what, text)
