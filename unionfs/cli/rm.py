"""`pyunionfs rm`: removes containers."""

from __future__ import annotations

import sys

from unionfs.cli import store_option
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container import record
from unionfs.container.end import TIMEOUT, kill
from unionfs.errors import ContainerError


def parser() -> Parser:
    made = Parser(
        "rm",
        "Remove containers with all that they have changed, and print the names that were given. The image"
        " and what was mounted by --volume stay, and so do volumes; with --volumes those go that have no name"
        " and were made for one of these containers.",
        "A container that runs is refused without --force. The exit status is 1 if one could not be removed.",
        examples=[
            ("pyunionfs rm web", "one that has ended"),
            ("pyunionfs rm -f web", "one that may be running: it is killed first"),
            ("pyunionfs rm -v web", "with its anonymous volumes"),
            ("pyunionfs rm $(pyunionfs ps -aq)", "all that do not run"),
        ],
    )
    made.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="kill it first (SIGKILL); one that is not there is no error",
    )
    made.add_argument(
        "-v", "--volumes", action="store_true", help="remove its anonymous volumes, too, if no other has them"
    )
    store_option.add(made)
    made.add_argument("containers", metavar="CONTAINER", nargs="+", help="name or id")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    store = store_option.opened_for_trees(given)
    failed = False
    for text in given.containers:
        try:
            container = record.find(store, text)
            if given.force:
                kill(container)
            record.remove(container, TIMEOUT if given.force else 0.0, with_volumes=given.volumes)
            print(text)
        except ContainerError as error:
            print(f"pyunionfs: {printable(str(error))}", file=sys.stderr)
            failed = failed or not given.force or not isinstance(error, record.NoContainerError)
    return 1 if failed else 0
