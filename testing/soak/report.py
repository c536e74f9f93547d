"""What a run has found, as Markdown: a table of quarters, the rule, what was done, and what was wrong.

Must say `GROWS` of a run in which a figure grows that counts. Two kinds do not: figures of the machine, where
the run was asked to share it, and those of processes that are begun anew all the time: they say how old one
was when it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testing.soak import plot
from testing.soak.figures import MACHINE, OF_PROCESSES, figure_of
from testing.soak.samples import Run
from testing.soak.verdict import GROWS, RULE, UNKNOWN, Point, Verdict, judge

FAULT = "fault"
"""The kind of note that says that something is wrong."""

_NOT_COUNTED = (
    "What has a word in brackets decides nothing: `shared` is the machine's, which other programs use, too;"
    " `restarted` a process's that is begun anew all the time, so that it says how old that was."
)
_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 24


@dataclass(frozen=True)
class Row:
    """One figure."""

    series: str
    verdict: Verdict
    points: Sequence[Point]


def rows(run: Run) -> list[Row]:
    """All figures of a run with their verdicts."""
    found = []
    for name in run.names():
        points = run.series[name]
        found.append(Row(name, judge(points, run.seconds, figure_of(name).slack), points))
    return found


def counts(run: Run, row: Row) -> bool:
    """Whether the verdict on this figure is one on the unions."""
    return not _why_not(run, row)


def _why_not(run: Run, row: Row) -> str:
    owner, _, figure = row.series.partition(" ")
    if owner == MACHINE and run.about.get("shared"):
        return "shared"
    return "restarted" if owner in run.about.get("restarted", ()) and figure in OF_PROCESSES else ""


def passed(run: Run) -> bool:
    """Whether nothing grows and nothing was wrong."""
    growing = [row for row in rows(run) if row.verdict.word == GROWS and counts(run, row)]
    return not growing and run.count(FAULT) == 0


def write(run: Run, directory: Path) -> str:
    """Write `report.md` and `plot.svg`; returns the text of the former."""
    (directory / "plot.svg").write_text(plot.draw(run))
    text = as_markdown(run)
    (directory / "report.md").write_text(text)
    return text


def as_markdown(run: Run) -> str:
    """The report."""
    table = rows(run)
    growing = [row.series for row in table if row.verdict.word == GROWS and counts(run, row)]
    faults = [f"- after {at / 60:.1f} minutes: {text}" for at, word, text in run.notes if word == FAULT]
    lines = ["# Soak run", "", *(f"- {name}: {value}" for name, value in run.about.items())]
    lines += [f"- measured for: {run.seconds / 60:.1f} minutes, {_samples(run)} samples", ""]
    lines += [f"**{'FAULTS' if faults else 'no fault'}**, **{_growth(growing)}**", "", *faults]
    lines += ["", "## What was done", "", *_done(run), "", "## First quarter against last", ""]
    lines += ["| figure | unit | first | last | change | verdict | course |", "|---|---|--:|--:|--:|---|---|"]
    lines += [_line(run, row) for row in table]
    lines += ["", RULE, "", _NOT_COUNTED, "", "![all figures over the time](plot.svg)", ""]
    return "\n".join(lines)


def _samples(run: Run) -> int:
    return max((len(points) for points in run.series.values()), default=0)


def _growth(growing: list[str]) -> str:
    return f"GROWS: {', '.join(growing)}" if growing else "all figures are level"


def _done(run: Run) -> list[str]:
    words = dict.fromkeys(word for _, word, _ in run.notes if word != FAULT)
    return [f"- {word}: {run.count(word):,}" for word in sorted(words)]


def _line(run: Run, row: Row) -> str:
    verdict = row.verdict
    word = f"**{verdict.word}**" if verdict.word == GROWS and counts(run, row) else verdict.word
    if verdict.word != UNKNOWN and (reason := _why_not(run, row)):
        word += f" ({reason})"
    if verdict.first is None or verdict.last is None:
        cells = ["", "", ""]
    else:
        change = verdict.last - verdict.first
        cells = [f"{verdict.first:,.0f}", f"{verdict.last:,.0f}", f"{change:+,.0f}"]
    return " | ".join(
        [f"| {row.series}", figure_of(row.series).unit, *cells, word, f"{sparkline(row.points)} |"]
    )


def sparkline(points: Sequence[Point]) -> str:
    """The course of a figure in a few characters, from its lowest value to its highest."""
    values = [value for _, value in points]
    if len(values) > _COLUMNS:
        values = [values[len(values) * column // _COLUMNS] for column in range(_COLUMNS)]
    lowest, span = min(values, default=0), max(values, default=0) - min(values, default=0)
    if span == 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[int((value - lowest) / span * (len(_BARS) - 1))] for value in values)
