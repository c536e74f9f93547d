"""`pyunionfs check`: finds inconsistencies in the layers of a union that is not mounted.

Checks, repairs if asked to, and prints both. What is an error and what may be repaired is decided in
`unionfs.offline`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unionfs.cli import terminal
from unionfs.cli.named_image import named_image
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.errors import OptionError
from unionfs.options import mount_options

if TYPE_CHECKING:
    from unionfs.offline.findings import Finding
    from unionfs.offline.repair import Outcome
    from unionfs.overlay.config import UnionConfig

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}

_NOTES = (
    "The exit status is 0 if there are no errors or warnings, or all were repaired; 1 if some are left, or"
    " the layers cannot be checked, as those of a mounted union; 2 if the command line is wrong.\n\n--repair"
    " never writes to a lower layer, never removes an object with content from UPPER, and does not change"
    " the tree that the union shows. Give exactly the lower layers that the union is mounted with: a"
    " whiteout of a name that only a missing lower layer has is taken for one of nothing."
)


def parser() -> Parser:
    made = Parser(
        "check",
        "Check the layers of a union that is not mounted: whiteouts of nothing, dangling redirects, metacopy"
        " files without data, broken origins and index entries, leftovers in WORK, the mark of a volatile"
        " mount.",
        _NOTES,
        usage=(
            "pyunionfs check [OPTION...] LOWER[:LOWER...] UPPER WORK",
            "pyunionfs check [OPTION...] -o lowerdir=...,upperdir=U,workdir=W",
            "pyunionfs check [OPTION...] -o image=IMAGE [LOWER:...] UPPER WORK",
        ),
        examples=[
            ("pyunionfs check site:base upper work", "check, and change nothing"),
            ("pyunionfs check --repair site:base upper work", "repair what can be repaired safely"),
            ("pyunionfs check --json site:base upper work", "for programs"),
            (
                "pyunionfs check -o index=on,metacopy=on base upper work",
                "with the options of the mount",
            ),
        ],
    )
    made.add_argument("directories", nargs="*", metavar="DIRECTORY", help="layers and work directory")
    made.add_argument("--repair", action="store_true", help="repair what can be repaired safely")
    made.add_argument(
        "--accept-lowers",
        action="store_true",
        help="these are the right lower layers, although upper was made with others or one lacks a directory",
    )
    made.add_argument(
        "--accept-volatile",
        action="store_true",
        help="upper is complete, although its last mount was volatile: sync it, and remove the mark",
    )
    made.add_mount_options(
        "mount options, as for `pyunionfs mount`; the layers may be given by lowerdir=, upperdir=, workdir="
    )
    made.add_argument("--json", action="store_true", help="one JSON object, for programs")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_intermixed_args(words)
    if not given.repair and (given.accept_lowers or given.accept_volatile):
        raise OptionError("--accept-lowers and --accept-volatile permit repairs: add --repair")
    with named_image(given.options) as image:
        return _check(given, mount_options.parse_union(given.directories, given.options, image))


def _check(given: argparse.Namespace, config: UnionConfig) -> int:
    from unionfs.offline import consistency, repair, stack
    from unionfs.offline.findings import Consent

    consents = []
    if given.accept_lowers:
        consents.append(Consent.LOWERS)
    if given.accept_volatile:
        consents.append(Consent.VOLATILE)
    looked_at = 0
    with _named(config), stack.open_stack(config, writable=given.repair) as layers:
        with terminal.progress(f"checking {config.upper}") as shown:

            def advance() -> None:
                nonlocal looked_at
                looked_at += 1
                shown()

            findings = list(consistency.examine(layers, advance))
        if given.repair:
            with terminal.progress("repairing", len(findings)) as shown:
                outcomes = []
                for outcome in repair.repair(layers, findings, consents):
                    outcomes.append(outcome)
                    shown()
        else:
            outcomes = repair.preview(findings)
    left = sum(outcome.done is None and outcome.finding.counts for outcome in outcomes)
    if given.json:
        print(json.dumps(as_json(config, outcomes, looked_at, left), indent=2))
    else:
        _print(outcomes, looked_at, repaired=given.repair)
    return 1 if left else 0


@contextmanager
def _named(config: UnionConfig) -> Iterator[None]:
    """Add the mount that has the layers to the error."""
    from unionfs.daemon import lock_wait
    from unionfs.overlay.lock import InUse

    try:
        yield
    except InUse as error:
        raise lock_wait.name_holder(error, config) from None


def as_json(config: UnionConfig, outcomes: Iterable[Outcome], looked_at: int, left: int) -> dict[str, Any]:
    """The output of --json, described in docs/offline.md."""
    return {
        "lowers": list(config.lowers),
        "data_lowers": list(config.data_lowers),
        "upper": config.upper,
        "work": config.work,
        "names": looked_at,
        "findings": [_finding_as_json(outcome.finding, outcome) for outcome in outcomes],
        "left": left,
    }


def _finding_as_json(finding: Finding, outcome: Outcome) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "path": finding.shown_path,
        "reason": finding.reason,
        "next_step": outcome.next_step,
        "repairable": finding.repair is not None,
        "mended": outcome.done,
        "not_mended": outcome.left,
    }


def _print(outcomes: list[Outcome], looked_at: int, *, repaired: bool) -> None:
    from rich.text import Text

    out = terminal.console()
    for outcome in outcomes:
        finding = outcome.finding
        out.print(
            Text.assemble((finding.severity, _STYLES[finding.severity]), f" {printable(finding.shown_path)}"),
            soft_wrap=True,
        )
        out.print(Text(f"    {printable(finding.reason)}"), soft_wrap=True)
        if outcome.done is not None:
            out.print(
                Text.assemble("    ", ("repaired", "green"), f": {printable(outcome.done)}"), soft_wrap=True
            )
            continue
        if outcome.left is not None:
            out.print(Text(f"    not repaired: {printable(outcome.left)}"), soft_wrap=True)
        out.print(Text(f"    next: {printable(outcome.next_step)}"), soft_wrap=True)
    out.print(Text(_summary(outcomes, looked_at, repaired=repaired)), soft_wrap=True)


def _summary(outcomes: list[Outcome], looked_at: int, *, repaired: bool) -> str:
    names = f"{looked_at} {'name' if looked_at == 1 else 'names'} checked"
    if not outcomes:
        return f"{names}: no findings"
    counts = Counter(str(outcome.finding.severity) for outcome in outcomes)
    words = [
        f"{counts[each]} {each if counts[each] == 1 else each + 's'}" for each in _STYLES if counts[each]
    ]
    text = f"{names}: {', '.join(words)}"
    repairs = sum(outcome.done is not None for outcome in outcomes)
    if repaired:
        text += f"; {repairs} repaired"
    repairable = sum(outcome.finding.repair is not None for outcome in outcomes)
    need_consent = sum(outcome.missing_consent is not None for outcome in outcomes)
    if not repaired and repairable > need_consent:
        text += f"; --repair can repair {repairable - need_consent}"
    if need_consent:
        text += f"; {_with_consent(outcomes)} can repair {need_consent if repaired else repairable}"
    return text


def _with_consent(outcomes: list[Outcome]) -> str:
    """The options that repair everything that can be repaired."""
    from unionfs.offline.repair import FLAGS

    missing = {outcome.missing_consent for outcome in outcomes}
    return " ".join(["--repair", *(flag for consent, flag in FLAGS.items() if consent in missing)])
