"""`pyunionfs changes`: the changes of a union against its lower layers, in the form of `docker diff`.

Prints what `offline/changes.py` finds. Writes to no layer.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import sys
from typing import Any

from unionfs.cli.mounted_layers import Layers, layers_of_mount, refuse_inside
from unionfs.cli.parser import Parser
from unionfs.cli.terminal import console, human_size, progress
from unionfs.cli.text import printable
from unionfs.errors import OptionError
from unionfs.offline.change import Change, Problem, Totals
from unionfs.offline.changes import changes, check_layer, uses_userxattr
from unionfs.options.lists import split_lowers
from unionfs.options.mount_options import resolve_mountpoint

_STYLES = {"A": "green", "C": "yellow", "D": "red"}


def parser() -> Parser:
    made = Parser(
        "changes",
        "List the changes of a union against its lower layers, one line per path: A added, C changed,"
        " D deleted. UPPER is the upper layer of a union, mounted or not; MERGED is a mount of pyunionfs or"
        " overlayfs.",
        "For UPPER alone the changes are derived from its overlay xattrs and whiteouts, which is not always"
        " exact (docs/offline.md); with --lowers, and for MERGED, it is. The time that it takes grows with"
        " the number of changes. The exit status is 1 if a path could not be read.",
        examples=[
            ("pyunionfs changes merged", "changes in a mounted union"),
            ("pyunionfs changes --stat upper", "changes in an upper layer that is not mounted, with sizes"),
            ("pyunionfs changes --lowers lower1:lower2 upper", "compare with the lower layers"),
            ("pyunionfs changes --json merged", "for programs"),
        ],
    )
    made.add_argument(
        "--lowers", metavar="LOWER[:LOWER...]", help="lower layers to compare UPPER with, topmost first"
    )
    made.add_argument(
        "--userxattr", action="store_true", help="UPPER has user.overlay.* xattrs (default: detect)"
    )
    add_forms(made)
    made.add_argument("directory", metavar="UPPER|MERGED", help="upper layer, or mountpoint")
    return made


def add_forms(parser: Parser) -> None:
    """--stat and --json, for `report`."""
    parser.add_argument("--stat", action="store_true", help="print sizes, and totals at the end")
    parser.add_argument("--json", action="store_true", help="print a JSON object, for programs")


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    layers = _layers(given.directory, given.lowers, userxattr=given.userxattr)
    return report(layers, stat=given.stat, as_json=given.json)


def report(layers: Layers, *, stat: bool, as_json: bool) -> int:
    """Print all changes, and return the exit status."""
    found: list[Change] = []
    problems: list[Problem] = []
    with progress("changes found:") as advance:
        for each in changes(layers.upper, layers.lowers, layers.data_lowers, userxattr=layers.userxattr):
            if isinstance(each, Problem):
                problems.append(each)
            else:
                found.append(each)
                advance()
    found.sort(key=lambda change: change.path)
    problems.sort(key=lambda problem: problem.path)
    if as_json:
        print(json.dumps(_document(layers, found, problems), indent=2))
    else:
        if layers.lowers is None and not problems and all(change.kind == "A" for change in found):
            # It may be an unused mountpoint, or any directory.
            print(
                f"pyunionfs: {printable(layers.upper)} is not a mountpoint: taken for an upper layer, in"
                " which nothing has an overlay xattr or a whiteout",
                file=sys.stderr,
            )
        _print(found, stat=stat)
        _remark(found)
    for problem in problems:
        print(f"pyunionfs: cannot read {_shown(problem.path)}: {_reason(problem.error)}", file=sys.stderr)
    return 1 if problems else 0


def _reason(error: OSError) -> str:
    """The reason, and what to do."""
    reason = error.strerror or str(error)
    if reason != os.strerror(error.errno or 0):
        return f"{reason}; `pyunionfs check LOWERS UPPER WORK` has the details"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{reason}; run this as root, or as the owner of the layer"
    return reason


def _layers(directory: str, lowers: str | None, *, userxattr: bool) -> Layers:
    """The layers that the command line names. Raises MountError, and OptionError for --lowers with a
    mount."""
    path = resolve_mountpoint(directory)
    found = layers_of_mount(path)
    if found is not None:
        if lowers is not None:
            raise OptionError(
                f"option --lowers conflicts with the mount {path}, whose lower layers are known: leave"
                " --lowers out, or give the upper directory instead"
            )
        return found
    check_layer("upper", path)
    refuse_inside(path)
    below, data = split_lowers(lowers) if lowers is not None else (None, [])
    return Layers(
        path,
        None if below is None else tuple(map(os.path.realpath, below)),
        tuple(map(os.path.realpath, data)),
        userxattr=userxattr or uses_userxattr(path),
    )


def _print(found: list[Change], *, stat: bool) -> None:
    if sys.stdout.isatty():
        from rich.text import Text

        terminal = console()
        for change in found:
            line = Text.assemble((change.kind, _STYLES[change.kind]), _rest(change, stat=stat))
            terminal.print(line, soft_wrap=True)
    else:
        for change in found:
            print(change.kind + _rest(change, stat=stat))
    if stat:
        print(_summary(found))


def _rest(change: Change, *, stat: bool) -> str:
    size = "" if change.size is None else human_size(change.size)
    return f" {size:>10} {_shown(change.path)}" if stat else " " + _shown(change.path)


def _summary(found: list[Change]) -> str:
    totals = _totals(found)
    return (
        f"{totals.added} added ({human_size(totals.added_size)}), {totals.changed} changed"
        f" ({human_size(totals.changed_size)}), {totals.deleted} deleted; {human_size(totals.disk)} in upper"
    )


def _totals(found: list[Change]) -> Totals:
    totals = Totals()
    for change in found:
        totals.add(change)
    return totals


def _remark(found: list[Change]) -> None:
    """Print which files have further names in the union that upper does not hold."""
    reported = set()
    for change in found:
        if change.unlisted_links and change.number not in reported:
            reported.add(change.number)
            print(
                f"pyunionfs: {_shown(change.path)}: {change.unlisted_links} more hard links of this file"
                " have names that upper does not hold",
                file=sys.stderr,
            )


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))


def _document(layers: Layers, found: list[Change], problems: list[Problem]) -> dict[str, Any]:
    return {
        "merged": layers.merged,
        "upper": layers.upper,
        "lowers": None if layers.lowers is None else list(layers.lowers),
        "data_lowers": list(layers.data_lowers),
        "userxattr": layers.userxattr,
        "changes": [_as_dict(change) for change in found],
        "totals": _totals(found).as_dict(),
        "problems": [
            {**_named("path", problem.path), "error": problem.error.strerror} for problem in problems
        ],
    }


def _as_dict(change: Change) -> dict[str, Any]:
    """One change, without what is unknown or does not apply."""
    fields: dict[str, Any] = {"kind": change.kind, **_named("path", change.path), "type": change.type}
    if change.kind != "D":
        fields |= {"size": change.size, "disk": change.disk, "data": change.in_upper}
    fields |= {
        "old_size": change.old_size,
        "differs": None if change.differs is None else list(change.differs),
        "unlisted_links": change.unlisted_links or None,
        **({} if change.source is None else _named("from", change.source)),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _named(key: str, path: bytes) -> dict[str, str]:
    """A path as text, with its exact bytes if they are not UTF-8."""
    try:
        return {key: path.decode()}
    except UnicodeDecodeError:
        return {key: os.fsdecode(path), key + "_base64": base64.b64encode(path).decode()}
