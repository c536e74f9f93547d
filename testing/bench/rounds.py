"""The run: every workload on every system in turn, several rounds, in another order each round.

Systems are measured right after each other on the same workload, so that a slow minute of the machine slows
all of them and the ratios hold. A system that fails at a workload has that recorded and is tried again at
the next one.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testing.bench.layers import Layers, copy_stack, warm
from testing.bench.results import Row, Series
from testing.bench.sizes import Sizes
from testing.bench.systems import BenchError, Place, System
from testing.bench.work import Result, Run, Workload, described, run
from testing.mounts import mount_types

Say = Callable[[str], None]


@dataclass(slots=True)
class Bench:
    """Everything that a run needs. `base` is an empty directory on the filesystem that is measured."""

    base: Path
    sizes: Sizes
    systems: Sequence[System]
    workloads: Sequence[Workload]
    rounds: int
    say: Say

    def measure(self) -> list[Row]:
        """All rounds; a row for each measure."""
        layers = Layers(self.base, self.sizes)
        tools = self._tools()
        rows = {
            measure.name: Row(measure.name, work.group, described(measure, self.sizes), measure.unit)
            for work in self.workloads
            for measure in work.measures
        }
        for number in range(self.rounds):
            self.say(f"round {number + 1} of {self.rounds}")
            for work in self.workloads:
                if work.once and number:
                    continue
                for system in in_round(self.systems, number):
                    if work.daemon_only and not system.has_daemon:
                        continue
                    if work.name == "mount" and system.native:
                        continue
                    self._one(work, system, layers, tools, rows)
        return [row for row in rows.values() if row.systems]

    def _tools(self) -> Path:
        tools = self.base / "tools"
        tools.mkdir()
        source = Path(__file__).with_name("micro.c")
        words = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tools / "micro"), str(source)]
        subprocess.run(words, check=True)
        return tools

    def _one(self, work: Workload, system: System, layers: Layers, tools: Path, rows: dict[str, Row]) -> None:
        """One workload on one system; whatever goes wrong becomes its result."""
        problem = ""
        results: dict[str, Result] = {}
        try:
            self._work(work, system, layers, tools, results)
        except (BenchError, OSError, ValueError, subprocess.SubprocessError) as error:
            problem = " ".join(str(error).split())
        for measure in work.measures:
            series = rows[measure.name].systems.setdefault(system.name, Series())
            result = results.get(measure.name)
            if result is None:
                series.failed = problem or "it was not measured"
                text = f"   failed: {series.failed}"
            else:
                series.values.append(result.value)
                series.requests = result.requests
                text = f"{result.value:9.3f} {measure.unit}"
            self.say(f"  {measure.name:24}{system.name:16}{text}")
        if problem and len(results) == len(work.measures):
            self.say(f"  {work.name:24}{system.name:16}   afterwards: {problem}")
            for measure in work.measures:
                rows[measure.name].systems[system.name].failed = problem

    def _work(
        self, work: Workload, system: System, layers: Layers, tools: Path, results: dict[str, Result]
    ) -> None:
        """Fresh directories, a mount, the work, and all gone again. Fills `results`."""
        stack = layers.stack(work.stack)
        place = Place(self.base / "run", layers.native(work.stack) if system.native else None)
        if system.native and work.changes:
            place = Place(place.base)
        place.base.mkdir()
        try:
            if system.native:
                if place.tree is None:
                    copy_stack(stack, place.merged)
                warm([place.merged])
            else:
                for directory in (place.upper, place.work, place.merged):
                    directory.mkdir()
                warm(stack)
            # What others wrote is on the disk before the clock starts.
            run(["sync", "-f", str(self.base)])
            with system.mounted(stack, place) as mounted:
                work.work(Run(system, mounted, place, stack, self.sizes, tools, results))
        finally:
            if not mount_types(place.merged):  # else the files are a union's, and some may be the layers'
                shutil.rmtree(place.base)


def in_round(systems: Sequence[System], number: int) -> list[System]:
    """The order in which systems take their turn: another one first each round, the rest forth and back."""
    start = number % len(systems)
    first, others = systems[start], [*systems[start + 1 :], *systems[:start]]
    return [first, *(reversed(others) if number % 2 else others)]
