"""What was measured: values, medians, ratios, and the JSON that holds them. Pure: nothing here measures."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(slots=True)
class Series:
    """All that one system showed for one measure."""

    values: list[float] = field(default_factory=list)
    """One a round."""
    requests: dict[str, int] = field(default_factory=dict)
    """What the daemon was asked in the last round, by opcode."""
    failed: str = ""
    """Why there is no value for some round."""

    @property
    def median(self) -> float | None:
        """None if any round failed: what is done only sometimes has no speed."""
        return statistics.median(self.values) if self.values and not self.failed else None


@dataclass(slots=True)
class Row:
    """One measure on all systems."""

    name: str
    group: str
    what: str
    unit: str
    systems: dict[str, Series] = field(default_factory=dict)

    def median(self, system: str) -> float | None:
        series = self.systems.get(system)
        return None if series is None else series.median

    def ratio(self, system: str, to: str) -> float | None:
        """How many times as long; None where one of them has no value, or needs nothing."""
        one, other = self.median(system), self.median(to)
        return one / other if one is not None and other else None


@dataclass(slots=True)
class Report:
    """One run of the benchmark."""

    machine: dict[str, str]
    date: str
    rounds: int
    quick: bool
    systems: dict[str, str]
    """What each system is, in the order of the command line."""
    left_out: dict[str, str]
    """Why the others were not measured."""
    rows: list[Row] = field(default_factory=list)

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def ratios(self, system: str, to: str, *, without: tuple[str, ...] = ()) -> dict[str, float]:
        """Every ratio that exists, by measure."""
        found = {row.name: row.ratio(system, to) for row in self.rows if row.name not in without}
        return {name: ratio for name, ratio in found.items() if ratio is not None}

    def to_json(self) -> str:
        """The run, with the medians, so that other programs need not know how they are taken."""
        plain: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        for row, raw in zip(self.rows, plain["rows"], strict=True):
            for name, series in raw["systems"].items():
                series["median"] = row.median(name)
        return json.dumps(plain, indent=1) + "\n"


def read_report(path: Path) -> Report:
    """The run that `to_json` wrote."""
    plain = json.loads(path.read_text())
    if plain.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not a result of this version of the benchmark: run it again")
    rows = plain.pop("rows")
    report = Report(**plain)
    for raw in rows:
        systems = {
            name: Series(series["values"], series["requests"], series["failed"])
            for name, series in raw.pop("systems").items()
        }
        report.rows.append(Row(**raw, systems=systems))
    return report


def geometric_mean(values: list[float]) -> float | None:
    """The mean of ratios: twice as fast and twice as slow make 1."""
    return math.exp(statistics.fmean(math.log(value) for value in values)) if values else None
