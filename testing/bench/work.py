"""What a workload is, and what it has at hand while it runs on one system.

A workload has one fresh mount and takes one or more *measures* on it. It must check that the work was done:
a system that fails quickly must not pass for a fast one. Only what is inside `timed` or is timed by a
program itself counts; preparation and checks are outside.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from testing.bench.sizes import Sizes
from testing.bench.systems import BenchError, Mounted, Place, System

PROGRAM_PATIENCE = 240.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One number that a workload yields, always such that less is better."""

    name: str
    what: str
    """The work in one sentence; {files} and the like stand for the sizes."""
    unit: str = "s"


@dataclass(slots=True)
class Result:
    """What one run of a workload measured for one measure."""

    value: float
    requests: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """One workload on one system: its mount and the tools to measure with."""

    system: System
    mounted: Mounted
    place: Place
    stack: list[Path]
    sizes: Sizes
    tools: Path
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def merged(self) -> Path:
        return self.mounted.merged

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the body."""
        before = self.mounted.requests()
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began, before)

    def add(self, name: str, value: float, before: Mapping[str, int] | None = None) -> None:
        """Record a result; the requests since `before` belong to it."""
        requests = Counter(self.mounted.requests()) if before is not None else Counter[str]()
        requests.subtract(before or {})
        counted = {kind: count for kind, count in sorted(requests.items()) if count}
        self.results[name] = Result(value, counted)

    def program(self, name: str, words: list[str], *, cwd: Path | None = None) -> str:
        """Measure a program from its start to its end; returns what it printed."""
        with self.timed(name):
            return run(words, cwd=cwd)

    def micro(self, name: str, command: str, path: Path, *arguments: object) -> None:
        """Measure a loop of micro.c, by its own clock."""
        words = [str(self.tools / "micro"), command, str(path), *map(str, arguments)]
        before = self.mounted.requests()
        self.add(name, int(run(words)) / 1e9, before)

    def warm_memory(self, size: int) -> None:
        """Have so much memory free that the machine has really given to this kernel.

        Memory that a virtual machine touches for the first time is several times as slow, and what comes
        first would pay for that.
        """
        file = self.tools / "memory"
        run([str(self.tools / "micro"), "write", str(file), str(1 << 20), str(size), str(size)])
        file.unlink()

    def cold(self) -> None:
        """Have the kernel forget all data, names and attributes, and then know the usual programs again."""
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        for words in (["find", "--version"], ["grep", "--version"], ["sh", "-c", ":"]):
            run(words)


def run(words: list[str], *, cwd: Path | None = None) -> str:
    """Run a program that must succeed; returns its standard output."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/nonexistent"}
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        output, problem = process.communicate(timeout=PROGRAM_PATIENCE)
    except BaseException as error:
        process.kill()  # not waited for: in a call that never returns it goes with the unmount
        if isinstance(error, subprocess.TimeoutExpired):
            raise BenchError(f"{words[0]} did not end within {PROGRAM_PATIENCE:.0f} s") from None
        raise
    if process.returncode != 0:
        raise BenchError(f"{' '.join(words)[:120]}: status {process.returncode}: {problem.strip()[-300:]}")
    return output


def check(ok: bool, message: str) -> None:
    """The work was done as it should."""
    if not ok:
        raise BenchError(message)


def count_names(root: Path) -> int:
    """How many names are below this directory."""
    return len(run(["find", str(root), "-mindepth", "1", "-printf", "x"]))


@dataclass(frozen=True, slots=True)
class Workload:
    """One piece of work, on the stack of this name."""

    name: str
    group: str
    stack: str
    measures: tuple[Measure, ...]
    work: Callable[[Run], None]
    changes: bool
    """Native needs a copy of its own each time."""
    daemon_only: bool
    """It says something about daemons alone."""
    once: bool
    """Too long for several rounds, and not noisy."""

    def wanted(self, words: list[str]) -> bool:
        names = [self.name, self.group, *(measure.name for measure in self.measures)]
        return any(name.startswith(word) for word in words for name in names)


_WORKLOADS: list[Workload] = []


def workload(
    name: str,
    group: str,
    *measures: Measure,
    stack: str,
    changes: bool = True,
    daemon_only: bool = False,
    once: bool = False,
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register a function as a workload. Without measures it has one of its own name, and its docstring."""

    def register(function: Callable[[Run], None]) -> Callable[[Run], None]:
        taken = measures or (Measure(name, (function.__doc__ or "").strip()),)
        _WORKLOADS.append(Workload(name, group, stack, taken, function, changes, daemon_only, once))
        return function

    return register


def registered() -> list[Workload]:
    """The workloads of the files that were imported so far; `workloads.py` imports all."""
    return list(_WORKLOADS)


def described(measure: Measure, sizes: Sizes) -> str:
    """The work of a measure, with the sizes filled in."""
    numbers: dict[str, object] = {}
    for name, size in asdict(sizes).items():
        numbers[name] = f"{size >> 20} MiB" if size >= 1 << 20 and not size % (1 << 20) else f"{size:,}"
    return measure.what.format(**numbers)
