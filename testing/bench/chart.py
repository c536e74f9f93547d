"""The bar chart: every measure as a ratio to kernel overlayfs, on a logarithmic axis, a panel a group.

matplotlib is in the optional extra `bench`; nothing else imports it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from testing.bench.results import Report, Row
from testing.bench.systems import FUSE_OVERLAYFS, NATIVE, OVERLAYFS
from testing.bench.text import GROUPS

_COLOURS = {
    NATIVE: "#9aa5b1",
    FUSE_OVERLAYFS: "#d9822b",
    "direct": "#1668b5",
    "cached": "#45a29e",
    "pyfuse3": "#7fb2e0",
}
_FASTEST = 0.05
"""The axis ends there: native does some work so quickly that the rest would be squeezed to a corner."""
_OTHERS = ("#3a9c6d", "#8f5bb5", "#c2455b", "#6b7a3a")


def draw(report: Report, target: Path) -> None:
    """Write the chart as SVG. ImportError without matplotlib."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    # The same run gives the same file, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "pyunionfs", "svg.fonttype": "none", "font.size": 9})
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    systems = [name for name in report.systems if name != OVERLAYFS]
    panels = [(GROUPS[group], rows) for group in GROUPS if (rows := _rows(report, group, systems))]
    if not panels:
        return
    columns = _columns(panels)
    lines = max(sum(len(rows) * (len(systems) + 1) + 4 for _, rows in column) for column in columns)
    figure = pyplot.figure(figsize=(6.5 * len(columns), 0.11 * lines + 1), layout="constrained")
    handles: list[Any] = []
    slowest = 1.6 * max(ratio for name in systems for ratio in _shown(panels, name))
    for part, column in zip(figure.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True):
        heights = [len(rows) for _, rows in column]
        axes = part.subplots(len(column), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for (title, rows), axis in zip(column, axes, strict=True):
            _panel(axis, title, rows, systems, _colours(systems))
            axis.set_xlim(_FASTEST, slowest)
            handles = axis.get_legend_handles_labels()[0]
        axes[-1].set_xlabel("time as a multiple of kernel overlayfs's (logarithmic; left is faster)")
    figure.legend(handles, systems, loc="outside upper center", ncols=len(systems), frameon=False)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    pyplot.close(figure)


def _columns(panels: list[tuple[str, list[Row]]]) -> list[list[tuple[str, list[Row]]]]:
    """The panels in two columns of about the same height; one where there is but one panel."""
    columns: list[list[tuple[str, list[Row]]]] = [[], []]
    for panel in panels:
        min(columns, key=lambda column: sum(len(rows) + 1 for _, rows in column)).append(panel)
    return [column for column in columns if column]


def _shown(panels: list[tuple[str, list[Row]]], system: str) -> list[float]:
    ratios = [row.ratio(system, OVERLAYFS) for _, rows in panels for row in rows]
    return [1.0, *(ratio for ratio in ratios if ratio is not None)]


def _rows(report: Report, group: str, systems: list[str]) -> list[Row]:
    rows = [row for row in report.rows if row.group == group and row.unit == "s" and row.name != "mount"]
    return [row for row in rows if any(row.ratio(name, OVERLAYFS) for name in systems)]


def _colours(systems: list[str]) -> dict[str, str]:
    others = iter(_OTHERS * len(systems))
    return {name: _COLOURS.get(name) or next(others) for name in systems}


def _panel(axis: Any, title: str, rows: list[Row], systems: list[str], colours: dict[str, str]) -> None:
    thick = 1 / (len(systems) + 1)
    for number, system in enumerate(systems):
        for place, row in enumerate(rows):
            ratio = row.ratio(system, OVERLAYFS)
            at = place + (number - (len(systems) - 1) / 2) * thick
            label = system if place == 0 else None
            # From 1 to the ratio: on a logarithmic axis a bar has no other natural foot.
            axis.barh(at, (ratio or 1) - 1, thick, left=1, color=colours[system], label=label)
            text = " failed" if ratio is None else f" {ratio:.2g} "
            faster = ratio is not None and ratio < 1
            side = "right" if faster and (ratio or 1) > 1.5 * _FASTEST else "left"
            edge = max(ratio or 1, _FASTEST)
            clipped = {"facecolor": "white", "edgecolor": "none", "pad": 0.3} if edge == _FASTEST else None
            axis.annotate(text, (edge, at), ha=side, va="center", fontsize=6, color="#333", bbox=clipped)
    axis.set_xscale("log")
    axis.axvline(1, color="#222", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_title(title, loc="left", fontweight="bold")
    axis.grid(axis="x", which="major", color="#ddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
