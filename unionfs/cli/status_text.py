"""The output of `pyunionfs status`: a table of mounts, or the details of one.

Its input are the answers of daemons. Any of them may come from another user's program: every text is passed
through `printable`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unionfs.cli.terminal import human_size
from unionfs.cli.text import printable
from unionfs.control.status_schema import Status
from unionfs.options.lists import join_lowers

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

Rates = dict[str, dict[str, float]]
"""Requests per second by kind, for each mount by its device."""

_MOST_WORKS = 5
_STATES = {"serving": "green", "detached": "yellow", "unreachable": "red"}


def requests_a_second(before: Iterable[Status], now: Iterable[Status], seconds: float) -> Rates:
    """The rates of each mount between two samples, highest first; none for a new mount."""
    earlier = {(each["device"], each["pid"]): each for each in before if each["state"] != "unreachable"}
    rates: Rates = {}
    for status in now:
        old = earlier.get((status["device"], status["pid"]))
        if old is None or status["state"] == "unreachable" or seconds <= 0:
            continue
        counts = {
            name: (count - old["requests"].get(name, 0)) / seconds
            for name, count in status["requests"].items()
            if count > old["requests"].get(name, 0)
        }
        rates[status["device"]] = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return rates


def table(found: list[Status], rates: Rates | None) -> RenderableType:
    """One row per mount, with *rates* also the requests per second, and remarks below."""
    if not found:
        return Text("no mounts")
    remarks = [text for status in found for text in _remarks(status)]
    rows = _Mounts([_row(status, rates) for status in found])
    return Group(rows, "", *remarks) if remarks else rows


def details(status: Status, rates: Rates | None) -> RenderableType:
    """The details of one mount."""
    path = Text(printable(status["mountpoint"]), style="bold")
    if status["state"] == "unreachable":
        return Group(path, Padding(Text(_unreachable(status)), (0, 0, 0, 2)))
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, style="cyan", min_width=9)
    grid.add_column(overflow="fold")
    for name, value in _detail_rows(status, rates):
        grid.add_row(name, Text(printable(value)))
    return Group(path, Padding(grid, (0, 0, 0, 2)))


def _detail_rows(status: Status, rates: Rates | None) -> Iterator[tuple[str, str]]:
    if status["state"] == "detached":
        yield "state", _detached(status)
    yield "lowers", join_lowers(status["lowers"], status["data_lowers"])
    yield "upper", status["upper"] or "none (read-only)"
    if (space := status["upper_space"]) is not None:
        yield (
            "space",
            f"{human_size(space['free'])} of {human_size(space['size'])} free on the upper filesystem",
        )
    if status["work"]:
        yield "work", status["work"]
    yield "options", ",".join(status["options"]) or "default"
    yield "transport", f"{status['transport']}, {_passthrough(status)}"
    if status["flags"]:
        yield "flags", " ".join(status["flags"])
    yield "daemon", f"{_who(status)}, up {duration(status['uptime'])}, {human_size(status['memory'])}"
    if status["log"]:
        yield "log", status["log"]
    yield "union", ", ".join(f"{name} {count}" for name, count in sorted(status["union"].items()))
    requests: dict[str, int] = status["requests"]
    most = sorted(requests.items(), key=lambda item: (-item[1], item[0]))
    yield "requests", ", ".join([str(_total(status)), *(f"{name} {count}" for name, count in most if count)])
    if rates is not None:
        mine = rates.get(status["device"], {})
        each = [f"{name} {_rate(rate)}" for name, rate in mine.items()]
        yield "req/s", ", ".join([_rate(sum(mine.values())), *each])
    for place, text in enumerate(_works(status)):
        yield "progress" if place == 0 else "", text


@dataclass(frozen=True)
class _Row:
    path: str
    state: str
    cells: dict[str, str]
    """By the heading of their column; "" if unknown."""


def _row(status: Status, rates: Rates | None) -> _Row:
    if status["state"] == "unreachable":
        return _Row(printable(status["mountpoint"]), "unreachable", {})
    space = status["upper_space"]
    lowers = len(status["lowers"]) + len(status["data_lowers"])
    union: dict[str, int] = status["union"]
    cells = {
        "LAYERS": f"{lowers}+upper" if status["upper"] else f"{lowers} ro",
        "FREE": "" if space is None else human_size(space["free"]),
        "MEMORY": human_size(status["memory"]),
        "UP": duration(status["uptime"], most=1),
        "REQUESTS": str(_total(status)),
    }
    if rates is not None:
        cells["REQ/S"] = _rate(sum(rates.get(status["device"], {}).values()))
    cells["OPEN"] = "" if status["silent_opens"] else str(union.get("open_files", ""))
    cells["COPY-UPS"] = str(union.get("copy_ups", ""))
    return _Row(printable(status["mountpoint"]), status["state"], cells)


class _Mounts:
    """The rows as a table or, if a path does not fit on one line of it, as a list."""

    def __init__(self, rows: list[_Row]) -> None:
        self._rows = rows
        self._headings = max((list(row.cells) for row in rows), key=len)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        room = options.update(max_width=100_000)
        for gap in (2, 1):
            made = self._table(gap)
            if Measurement.get(console, room, made).maximum <= options.max_width:
                yield made
                return
        yield from self._list()

    def _table(self, gap: int) -> Table:
        made = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
        made.add_column("MOUNTPOINT", no_wrap=True)
        made.add_column("STATE", no_wrap=True)
        for heading in self._headings:
            made.add_column(heading, no_wrap=True, justify="left" if heading == "LAYERS" else "right")
        for row in self._rows:
            cells = [Text(row.state, style=_STATES.get(row.state, ""))]
            cells += [Text(row.cells.get(heading) or "-") for heading in self._headings]
            made.add_row(Text(row.path), *cells)
        return made

    def _list(self) -> Iterator[Any]:
        for row in self._rows:
            yield Text(row.path, style="bold", overflow="fold")
            words = [
                f"{heading.lower()} {row.cells[heading]}"
                for heading in self._headings
                if row.cells.get(heading)
            ]
            state = Text(row.state, style=_STATES.get(row.state, ""))
            yield Padding(Text(", ").join([state, *map(Text, words)]), (0, 0, 0, 2))


def _remarks(status: Status) -> Iterator[Text]:
    """What is not in the row of a mount: an explanation of its state, and its slow work."""
    texts = list(_works(status)) if status["state"] != "unreachable" else [_unreachable(status)]
    if status["state"] == "detached":
        texts.insert(0, _detached(status))
    for text in texts:
        yield Text.assemble((printable(status["mountpoint"]), "bold"), ": ", printable(text), overflow="fold")


def _works(status: Status) -> Iterator[str]:
    works = status["under_way"]
    for work in works[:_MOST_WORKS]:
        yield _work(work)
    if len(works) > _MOST_WORKS:
        yield f"and {len(works) - _MOST_WORKS} more"


_DOING = {"copy_up": "copying up", "rename": "renaming by copying"}


def _work(work: dict[str, Any]) -> str:
    path = work["path"] or "a deleted file"
    since = duration(work["seconds"])
    if work["work"] == "listing":
        return f"listing {path}, {since}"
    doing = _DOING.get(work["work"], work["work"])
    if work["work"] == "rename" and work["step"] == "reading":
        return f"{doing} {path}: determining its size, {since}"
    if work["step"] == "waiting":
        return f"{doing} {path}: waiting for other work, {since}"
    if work["total"] is None or work["done"] is None:
        return f"{doing} {path}: {work['step']}, {since}"
    if work["step"] == "writing_out":
        return f"{doing} {path}: {human_size(work['total'])} copied, writing it to disk, {since}"
    share = 100 * work["done"] // max(work["total"], 1)
    return f"{doing} {path}: {human_size(work['done'])} of {human_size(work['total'])} ({share} %), {since}"


def _unreachable(status: Status) -> str:
    if os.geteuid() not in (0, status["user"]):
        return f"mounted by user {status['user']}: only that user and root can query its daemon"
    pid = status["pid"]
    what = "it was killed or hangs" if pid is None else f"pid {pid} hangs, or waits for a slow disk"
    # Without --lazy umount waits for the daemon.
    lazy = "" if pid is None else "--lazy "
    return (
        f"its daemon does not respond: {what};"
        f" `pyunionfs umount {lazy}{shlex.quote(printable(status['mountpoint']))}` unmounts it"
    )


def _detached(status: Status) -> str:
    count = status["open_handles"]
    if status["silent_opens"]:
        files = "files may be open"
    else:
        files = "1 file open" if count == 1 else f"{count} files open"
    return f"not mounted in this mount namespace, {files}"


def _passthrough(status: Status) -> str:
    problem = status["passthrough_problem"]
    return "passthrough" if problem is None else f"no passthrough: {problem}"


def _who(status: Status) -> str:
    pid = "in another pid namespace" if status["pid"] is None else f"pid {status['pid']}"
    return pid if status["user"] == os.geteuid() else f"{pid} of user {status['user']}"


def _total(status: Status) -> int:
    return sum(status["requests"].values())


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def duration(seconds: float, most: int = 2) -> str:
    """A human-readable time span, in its largest units, two at most."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + most])
