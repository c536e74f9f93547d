"""What pyunionfs must reach, and whether a run shows it. Pure: reads a Report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from testing.bench.results import Report, geometric_mean
from testing.bench.systems import FUSE_OVERLAYFS, OVERLAYFS

NO_SPEED = ("memory",)
"""Measures that are no time."""
MEAN = 0.6
FASTEST_MOUNT = 0.2

WITHIN_OVERLAYFS: dict[str, float] = {
    **dict.fromkeys(
        (
            *("sequential write", "cold sequential read", "sequential read"),
            *("4 KiB writes", "random write", "random read", "mmap write", "mmap read"),
            *("warm find", "warm grep", "warm stat"),
        ),
        1.1,
    ),
    **dict.fromkeys(
        ("git add", "git commit", "git status", "cp -a", "python imports", "gcc build", "cold grep"), 1.3
    ),
    "untar": 3.0,
}
WITHIN_FUSE_OVERLAYFS: dict[str, float] = dict.fromkeys(("create", "unlink", "rename"), 0.5)
LAYERS = 1.2


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table of goals. `value` is None where the run does not say."""

    measure: str
    text: str
    limit: float
    value: float | None
    unit: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.value <= self.limit


def goals(report: Report, subject: str) -> list[Goal]:
    """Every goal, for this system."""
    return [
        *_not_slower(report, subject),
        *_ratios(report, subject, OVERLAYFS, WITHIN_OVERLAYFS),
        *_ratios(report, subject, FUSE_OVERLAYFS, WITHIN_FUSE_OVERLAYFS),
        *_many_layers(report, subject),
        _mount(report, subject),
    ]


def _not_slower(report: Report, subject: str) -> Iterable[Goal]:
    ratios = report.ratios(subject, FUSE_OVERLAYFS, without=NO_SPEED)
    mean = geometric_mean(list(ratios.values()))
    yield Goal("all", f"geometric mean of the ratios to {FUSE_OVERLAYFS}", MEAN, mean)
    for name, ratio in ratios.items():
        yield Goal(name, f"not slower than {FUSE_OVERLAYFS}", 1.0, ratio)


def _ratios(report: Report, subject: str, to: str, limits: dict[str, float]) -> Iterable[Goal]:
    for name, limit in limits.items():
        if (row := report.row(name)) is not None:
            yield Goal(name, f"within {limit:g} of {to}", limit, row.ratio(subject, to))


def _many_layers(report: Report, subject: str) -> Iterable[Goal]:
    for kind in ("lookups", "misses"):
        few, many = report.row(f"{kind} 2 layers"), report.row(f"{kind} 100 layers")
        if few is not None and many is not None:
            one, other = few.median(subject), many.median(subject)
            value = other / one if one and other is not None else None
            yield Goal(f"{kind} 100 layers", f"within {LAYERS:g} of the same with 2 layers", LAYERS, value)


def _mount(report: Report, subject: str) -> Goal:
    row = report.row("mount")
    value = None if row is None else row.median(subject)
    return Goal("mount", "command to serving mount within 200 ms", FASTEST_MOUNT, value, "s")
