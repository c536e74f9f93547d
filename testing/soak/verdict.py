"""Whether a figure grows: its first quarter against its last.

Must judge by the values alone, and must never call a figure level of which it has seen too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WARM_UP = 0.1
"""The part of the time that belongs to no quarter: caches fill, and what is looked up first is looked up."""
TOLERANCE = 0.05
"""Of the first quarter's value; a figure that rises by less is level."""
STILL = 0.2
"""The share of the whole rise that must come after the third quarter. Steady growth has a third there, what
rises until something is full next to nothing."""
FEWEST = 2
"""Values that a quarter must have."""

LEVEL, GROWS, UNKNOWN = "level", "grows", "too few values"

RULE = (
    f"The first {WARM_UP:.0%} of the time are warm-up; the rest is four quarters, and a quarter's value is"
    f" the median of its samples. A figure `{GROWS}` if the last quarter is above the first by more than"
    f" {TOLERANCE:.0%} and more than the figure's slack, and if at least {STILL:.0%} of that rise come"
    f" between the third quarter and the last: then it has not come to rest. Else it is `{LEVEL}`; with fewer"
    f" than {FEWEST} samples in a quarter nothing is said (`{UNKNOWN}`)."
)

Point = tuple[float, float]
"""When, in seconds since the start, and the value."""


@dataclass(frozen=True)
class Verdict:
    """What is said of one figure."""

    word: str
    first: float | None = None
    last: float | None = None
    """The values of the first quarter and the last; None where there are too few samples."""


def judge(points: Sequence[Point], seconds: float, slack: float) -> Verdict:
    """The verdict on a figure of a run that took so many *seconds*; *slack* is what it may rise by anyway."""
    quarters = [[value for at, value in points if _quarter(at, seconds) == number] for number in range(4)]
    if any(len(values) < FEWEST for values in quarters):
        return Verdict(UNKNOWN)
    first, _, third, last = map(median, quarters)
    rise = last - first
    grows = rise > max(slack, TOLERANCE * first) and last - third >= STILL * rise
    return Verdict(GROWS if grows else LEVEL, first, last)


def limits(seconds: float) -> list[float]:
    """When each quarter begins, and when the last one ends."""
    return [seconds * (WARM_UP + (1 - WARM_UP) * number / 4) for number in range(5)]


def _quarter(at: float, seconds: float) -> int | None:
    starts = limits(seconds)
    if at < starts[0]:
        return None
    return min(3, sum(at >= start for start in starts) - 1)
