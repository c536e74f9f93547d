"""`pyunionfs start`: starts containers that were made before, at this terminal or in the background."""

from __future__ import annotations

import sys

from unionfs.cli import store_option
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container import life, record
from unionfs.container.runner import StartError
from unionfs.errors import ContainerError, OptionError


def parser() -> Parser:
    made = Parser(
        "start",
        "Start containers that do not run, with what they have changed before. With --attach the one that is"
        " named runs at this terminal, and its exit status is that of the command; else it goes on in the"
        " background, and the names that were given are printed.",
        "In the background standard input is empty, and output is appended to a file, which `pyunionfs"
        " inspect` names as LogPath. A program that cannot be started is exit status 127 (not there), 126"
        " (cannot be executed) or 125.",
        examples=[
            ("pyunionfs start web", "in the background"),
            ("pyunionfs start -a -i web", "at this terminal"),
        ],
    )
    made.add_argument("-a", "--attach", action="store_true", help="run it here, and wait for its end")
    made.add_argument(
        "-i", "--interactive", action="store_true", help="pass standard input on, too; implies --attach"
    )
    store_option.add(made)
    made.add_argument("containers", metavar="CONTAINER", nargs="+", help="name or id")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    attach = given.attach or given.interactive
    if attach and len(given.containers) > 1:
        raise OptionError("start: with --attach or --interactive give one container")
    store = store_option.opened_for_trees(given)
    status = 0
    for text in given.containers:
        try:
            container = record.find(store, text)
            if attach:
                return life.run(container, interactive=given.interactive)
            life.run_in_background(container)
            print(text, flush=True)
        except ContainerError as error:
            print(f"pyunionfs: {printable(str(error))}", file=sys.stderr)
            status = error.status if attach and isinstance(error, StartError) else 1
    return status
