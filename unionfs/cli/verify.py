"""`pyunionfs verify`: reads the whole store of images again, and mends what is damaged."""

from __future__ import annotations

import json

from unionfs.cli import store_option, terminal
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.image.store import Store
from unionfs.image.verify import Finding, Verification


def parser() -> Parser:
    made = Parser(
        "verify",
        "Read everything in the store of images again: blobs are hashed, unpacked layers are compared with"
        " what their blobs unpack to, and each image must have all that it consists of.",
        "With --repair what is damaged is unpacked again, or removed where it is not needed: the blob of a"
        " layer that is unpacked, or an image without a manifest; a pull brings the latter back. A layer that"
        " a mount has is not replaced. Other commands wait until the repair has ended. The exit status is 1"
        " if something is wrong that was not mended.",
        examples=[
            ("pyunionfs verify", "look, and change nothing"),
            ("pyunionfs verify --repair", "mend what can be mended"),
            ("pyunionfs verify --json", "for programs"),
        ],
    )
    made.add_argument("--repair", action="store_true", help="mend what can be mended")
    made.add_argument("--json", action="store_true", help="print a JSON array, for programs")
    store_option.add(made)
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    store = store_option.opened(given)
    found = _verify(store, repair=given.repair)
    left = [each for each in found if not each.done]
    if given.json:
        print(json.dumps([{"what": each.what, "problem": each.problem, "done": each.done} for each in found]))
    else:
        for each in found:
            done = f": {each.done}" if each.done else ""
            print(printable(f"{each.what}: {each.problem}{done}"))
        print(_summary(len(found), len(left), repair=given.repair))
    return 1 if left else 0


def _verify(store: Store, *, repair: bool) -> list[Finding]:
    with (
        store.pruning() if repair else store.in_use(),
        terminal.progress(f"reading {store.root} (bytes):") as advance,
    ):
        return [*Verification(store, mend=repair, advance=advance).run()]


def _summary(found: int, left: int, *, repair: bool) -> str:
    if not found:
        return "everything in the store is as it must be"
    if repair:
        return f"{found} found, {left} of them not mended"
    return f"{found} found: `pyunionfs verify --repair` mends what can be mended"
