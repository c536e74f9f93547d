"""The samples of a run, in a file that has each of them at once: also a run that is cut short has a report.

One JSON object a line: first what the run is (`about`), then samples, and notes on what happened. Must never
change a line that is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testing.soak.figures import figure_of
from testing.soak.verdict import Point


class Writer:
    """Appends to the file of a run."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self._append({"about": about})

    def sample(self, at: float, values: dict[str, float]) -> None:
        """What was measured *at* so many seconds after the start."""
        self._append({"at": round(at, 3), "values": values})

    def note(self, at: float, what: str, text: str = "") -> None:
        """Something that happened: `what` is counted, `text` is for readers."""
        self._append({"at": round(at, 3), "note": what, "text": text})

    def _append(self, entry: dict[str, Any]) -> None:
        # One write of a whole line: the sampler's thread and the conductor's both append.
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")


@dataclass
class Run:
    """All that the file has."""

    about: dict[str, Any] = field(default_factory=dict)
    series: dict[str, list[Point]] = field(default_factory=dict)
    """By name, as `steady resident`."""
    notes: list[tuple[float, str, str]] = field(default_factory=list)
    """When, what, text."""
    seconds: float = 0.0
    """When the last sample was taken."""

    def count(self, what: str) -> int:
        return sum(word == what for _, word, _ in self.notes)

    def names(self) -> list[str]:
        """The names of all series, those of one daemon together."""
        owners = list(dict.fromkeys(name.partition(" ")[0] for name in self.series))
        return sorted(
            self.series, key=lambda name: (owners.index(name.partition(" ")[0]), figure_of(name).place)
        )


def read(path: Path) -> Run:
    """What a `Writer` wrote. A last line that is cut short is left out."""
    run = Run()
    for line in path.read_bytes().split(b"\n")[:-1]:
        entry = json.loads(line)
        if "about" in entry:
            run.about = entry["about"]
        elif "values" in entry:
            run.seconds = max(run.seconds, entry["at"])
            for name, value in entry["values"].items():
                run.series.setdefault(name, []).append((entry["at"], value))
        else:
            run.notes.append((entry["at"], entry["note"], entry["text"]))
    return run
