"""The figures of a run over its time, as SVG: a panel for each kind of figure, a line for each daemon.

Written by hand, so that a run needs no library. Must show every value that was measured: what is smoothed
hides what a run is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from testing.soak.figures import figure_of
from testing.soak.samples import Run
from testing.soak.verdict import Point, limits

_WIDTH, _HEIGHT = 420, 150
_LEFT, _TOP, _RIGHT, _BOTTOM = 78, 26, 12, 22
_COLUMNS = 3
_HEAD = 34
_COLOURS = ("#1668b5", "#d9822b", "#3a9c6d", "#8f5bb5", "#c2455b", "#6b7a3a", "#45a29e", "#9aa5b1")


def draw(run: Run) -> str:
    """The picture."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for name in run.names():
        owner, _, figure = name.partition(" ")
        panels.setdefault(figure, {})[owner] = run.series[name]
    owners = list(dict.fromkeys(owner for lines in panels.values() for owner in lines))
    colours = {owner: _COLOURS[place % len(_COLOURS)] for place, owner in enumerate(owners)}
    width = _COLUMNS * _WIDTH
    height = _HEAD + -(-len(panels) // _COLUMNS) * _HEIGHT
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="10">',
        f'<rect {size} fill="white"/>',
    ]
    for place, owner in enumerate(owners):
        parts.append(_text(_LEFT + place * 130, 20, owner, colour=colours[owner], bold=True))
    for place, (figure, lines) in enumerate(panels.items()):
        x, y = place % _COLUMNS * _WIDTH, _HEAD + place // _COLUMNS * _HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(figure, lines, run.seconds, colours), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(figure: str, lines: dict[str, list[Point]], seconds: float, colours: dict[str, str]) -> list[str]:
    unit = figure_of(f"{next(iter(lines))} {figure}").unit
    highest = max((value for points in lines.values() for _, value in points), default=0) or 1
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    bottom = _TOP + tall

    def x_of(at: float) -> float:
        return _LEFT + (at / seconds if seconds else 0) * wide

    # The axis begins at nothing: a figure that has grown by a hundredth must not look like one that doubled.
    parts = [_text(_LEFT, _TOP - 8, f"{figure}{f' ({unit})' if unit else ''}", bold=True)]
    for value in (0, highest / 2, highest):
        y = bottom - value / highest * tall
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{wide}" stroke="#ddd" stroke-width="0.6"/>')
        parts.append(_text(_LEFT - 5, y + 3, f"{value:,.0f}", anchor="end"))
    for at in limits(seconds):
        parts.append(
            f'<path d="M{x_of(at):.1f} {_TOP}v{tall}" stroke="#bbb" stroke-width="0.6"'
            ' stroke-dasharray="3 3"/>'
        )
    parts.append(_text(_LEFT, bottom + 14, "0"))
    parts.append(_text(_LEFT + wide, bottom + 14, f"{seconds / 60:,.1f} min", anchor="end"))
    parts += [_line(points, colours[owner], x_of, highest) for owner, points in lines.items()]
    return parts


def _line(points: Sequence[Point], colour: str, x_of: Callable[[float], float], highest: float) -> str:
    bottom, tall = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    corners = " ".join(f"{x_of(at):.1f},{bottom - value / highest * tall:.1f}" for at, value in points)
    return f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="1.2"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#333", bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'
    )
