"""`pyunionfs create`: makes a container of an image, and prints its id. Starts nothing."""

from __future__ import annotations

from unionfs.cli import run_options, store_option
from unionfs.cli.parser import Parser


def parser() -> Parser:
    made = Parser(
        "create",
        "Make a container of IMAGE, without starting it, and print its id. A container has an upper layer of"
        " its own, so that the image stays as it is.",
        usage=("pyunionfs create [OPTION...] IMAGE [COMMAND [ARG...]]",),
        examples=[
            ("pyunionfs create --name web debian:12 bash", "a container to be started later"),
            ("pyunionfs start -a -i web", "start it, at this terminal"),
            ("pyunionfs create -v /srv/data:/data:ro -e LANG=C debian:12", "with the image's own command"),
        ],
    )
    store_option.add(made)
    run_options.add(made)
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    print(run_options.created(store_option.opened_for_trees(given), given).id)
    return 0
