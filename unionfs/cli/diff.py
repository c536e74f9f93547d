"""`pyunionfs diff`: the changes of a container against its image, as `changes` prints those of a union."""

from __future__ import annotations

from unionfs.cli import changes, store_option
from unionfs.cli.mounted_layers import Layers
from unionfs.cli.parser import Parser
from unionfs.container import record
from unionfs.offline.changes import uses_userxattr


def parser() -> Parser:
    made = Parser(
        "diff",
        "List the changes of a container against its image, one line per path: A added, C changed, D deleted."
        " The container may be running.",
        "The exit status is 1 if a path could not be read.",
        examples=[
            ("pyunionfs diff web", "as docker diff prints them"),
            ("pyunionfs diff --stat web", "with sizes"),
            ("pyunionfs diff --json web", "for programs"),
        ],
    )
    changes.add_forms(made)
    store_option.add(made)
    made.add_argument("container", metavar="CONTAINER", help="name or id")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    container = record.find(store_option.opened_for_trees(given), given.container)
    upper = str(container.upper)
    lowers = tuple(map(str, container.lowers()))
    layers = Layers(upper, lowers, userxattr=uses_userxattr(upper))
    return changes.report(layers, stat=given.stat, as_json=given.json)
