"""`pyunionfs status`: layers, daemon and work in progress of each mount; laid out by `status_text.py`."""

from __future__ import annotations

import json
import math
import signal
import time
from typing import TYPE_CHECKING

from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.control import status_socket
from unionfs.control.status_schema import Status
from unionfs.errors import MountError, OptionError
from unionfs.options.mount_options import resolve_mountpoint

if TYPE_CHECKING:
    from rich.console import RenderableType

    from unionfs.cli.status_text import Rates

_EACH = 2.0
_SHORTEST = 0.1


def parser() -> Parser:
    made = Parser(
        "status",
        "List the mounts of pyunionfs, or show the details of the one at MERGED: layers, options, memory and"
        " requests of its daemon, and slow work in progress.",
        "FREE is the free space of the upper filesystem. A mount whose daemon does not respond is listed,"
        " too, and how to unmount it. Root sees the mounts of all users.",
        examples=[
            ("pyunionfs status", "all mounts, one per row"),
            ("pyunionfs status merged", "details of one mount"),
            ("pyunionfs status --watch", "update every two seconds until Ctrl-C"),
            (
                "pyunionfs status merged --watch 0.5",
                "one mount: requests per second, copy-ups in progress",
            ),
            ("pyunionfs status --json | jq '.[].mountpoint'", "for programs"),
        ],
    )
    made.add_argument("merged", metavar="MERGED", nargs="?", help="mountpoint")
    made.add_argument("--json", action="store_true", help="print a JSON list of objects, for programs")
    made.add_argument(
        "-w",
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const="",
        help=f"update every SECONDS (default: {_EACH:g}), with requests per second; with --json print one"
        " list per line",
    )
    return made


def run(words: list[str]) -> int:
    given = parser().parse_intermixed_args(words)
    merged, interval = given.merged, None
    if given.watch is not None:
        seconds = given.watch
        if merged is None and seconds and not _is_number(seconds):
            merged, seconds = seconds, ""  # `status --watch merged`
        interval = _interval(seconds)
    wanted = None if merged is None else resolve_mountpoint(merged)
    found = _find(wanted)
    if wanted is not None and not found:
        raise MountError(f"{wanted} is not a mount of pyunionfs: `pyunionfs status` lists them")
    if interval is not None:
        try:
            _watch(wanted, found, interval, as_json=given.json)
        except KeyboardInterrupt:
            pass  # the way to quit
    elif given.json:
        print(json.dumps(found, indent=2))
    else:
        from unionfs.cli.terminal import show

        show(_shown(wanted, found, None))
    return 0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _interval(seconds: str) -> float:
    if not seconds:
        return _EACH
    value = float(seconds) if _is_number(seconds) else math.nan
    if not _SHORTEST <= value < math.inf:
        raise OptionError(
            f"invalid value {seconds!r} of --watch: give a number of seconds, {_SHORTEST:g} or more, as in"
            " --watch 0.5; a mountpoint comes before it: `pyunionfs status MERGED --watch`"
        )
    return value


def _find(wanted: str | None) -> list[Status]:
    found = status_socket.list_mounts()
    if wanted is None:
        return found
    return [status for status in found if status["mountpoint"] == wanted][-1:]


def _shown(wanted: str | None, found: list[Status], rates: Rates | None) -> RenderableType:
    from unionfs.cli import status_text

    if wanted is None:
        return status_text.table(found, rates)
    return status_text.details(found[0], rates)


def _watch(wanted: str | None, found: list[Status], interval: float, *, as_json: bool) -> None:
    """Show it until Ctrl-C or, for one mount, until it is unmounted."""
    from unionfs.cli.status_text import requests_a_second
    from unionfs.cli.terminal import Screen

    # The default action would leave the terminal in the alternate screen.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    taken = time.monotonic()
    rates: Rates = {}
    with Screen(f"every {interval:g} s, Ctrl-C to quit", plain=as_json) as screen:
        while found or wanted is None:
            if as_json:
                print(json.dumps(found), flush=True)
            else:
                screen.show(_shown(wanted, found, rates))
            time.sleep(interval)
            before, found = found, _find(wanted)
            now = time.monotonic()
            rates = requests_a_second(before, found, now - taken)
            taken = now
    print("[]" if as_json else f"{printable(wanted or '')} has been unmounted")
