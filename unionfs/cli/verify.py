"""`pyunionfs verify`: reads the whole store of images again, and mends what is damaged."""

from __future__ import annotations

import json

from unionfs.cli import registry_options, store_option, terminal
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.image.store import Store
from unionfs.image.verify import Finding, Verification
from unionfs.registry.connections import Options
from unionfs.registry.fetch import Fetcher


def parser() -> Parser:
    made = Parser(
        "verify",
        "Read everything in the store of images again: blobs are hashed, unpacked layers are compared with"
        " what their blobs unpack to, and each image must have all that it consists of.",
        "With --repair what is damaged is fetched again from a registry that is known to have it, or unpacked"
        " again, or else removed where it is not needed: the blob of a layer that is unpacked, or an image"
        " without a manifest; a pull brings the latter back. A layer that a mount has is not replaced. Other"
        " commands wait until the repair has ended. The exit status is 1 if something is wrong that was not"
        " mended.",
        examples=[
            ("pyunionfs verify", "look, and change nothing"),
            ("pyunionfs verify --repair", "mend what can be mended"),
            ("pyunionfs verify --json", "for programs"),
        ],
    )
    made.add_argument("--repair", action="store_true", help="mend what can be mended")
    made.add_argument("--json", action="store_true", help="print a JSON array, for programs")
    registry_options.add(made)
    store_option.add(made)
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    store = store_option.opened_for_trees(given)
    found = _verify(store, registry_options.options(given) if given.repair else None)
    left = [each for each in found if not each.done]
    if given.json:
        print(json.dumps([{"what": each.what, "problem": each.problem, "done": each.done} for each in found]))
    else:
        for each in found:
            done = f": {each.done}" if each.done else ""
            print(printable(f"{each.what}: {each.problem}{done}"))
        print(_summary(len(found), len(left), repair=given.repair))
    return 1 if left else 0


def _verify(store: Store, repair: Options | None) -> list[Finding]:
    """With *repair* registries are asked for what is damaged, so."""
    with (
        store.in_use() if repair is None else store.pruning(),
        terminal.progress(f"reading {store.root} (bytes):") as advance,
    ):
        if repair is None:
            return [*Verification(store, advance=advance).run()]
        return [*Verification(store, True, Fetcher(repair), advance).run()]


def _summary(found: int, left: int, *, repair: bool) -> str:
    if not found:
        return "everything in the store is as it must be"
    if repair:
        return f"{found} found, {left} of them not mended"
    return f"{found} found: `pyunionfs verify --repair` mends what can be mended"
