"""`pyunionfs run`: makes a container of an image, runs it, and ends with the exit status of its process.

What takes long to load is loaded when the processes that start the container have been forked, which have
their own to load.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from unionfs.container.runner import FAILED, Runner, StartError
from unionfs.errors import PyUnionFSError

if TYPE_CHECKING:
    from unionfs.cli.parser import Parser


def parser() -> Parser:
    from unionfs.cli import run_options, store_option
    from unionfs.cli.parser import Parser

    made = Parser(
        "run",
        "Make a container of IMAGE and run it. Its process has namespaces of its own (mount, pid, uts, ipc,"
        " and for an ordinary user a user namespace) and Docker's default capabilities. The network is the"
        " host's; memory and processor are not limited.",
        "Signals are passed on to the process, and its exit status becomes that of this command: 128 and the"
        " number of a signal that ended it, 127 if there is no such program, 126 if it cannot be executed,"
        " 125 if the container could not be started.",
        usage=("pyunionfs run [OPTION...] IMAGE [COMMAND [ARG...]]",),
        examples=[
            ("pyunionfs run --rm -it debian:12 bash", "a shell on a terminal; nothing is kept"),
            (
                "pyunionfs run --name web -v /srv/site:/site:ro debian:12 ls /site",
                "with a directory of the host",
            ),
            ("pyunionfs run --rm -v state:/var/lib/db debian:12 ls /var/lib/db", "with a volume that stays"),
            ("pyunionfs run -d --name job debian:12 sleep 60", "in the background"),
            ("pyunionfs run --rm -i debian:12 tr a-z A-Z <letters", "with standard input"),
        ],
    )
    made.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="run it in the background and print its id; output goes into a file",
    )
    store_option.add(made)
    run_options.add(made)
    return made


def run(words: list[str]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        if {"-d", "--detach", "-h", "--help"}.intersection(words):
            return _run(words, None)
        with Runner() as runner:
            return _run(words, runner)
    except PyUnionFSError as error:
        from unionfs.cli.text import printable

        print("pyunionfs: " + printable(str(error)), file=sys.stderr)
        # As Docker has it for all that keeps a container from running.
        return error.status if isinstance(error, StartError) else FAILED


def _end(number: int, frame: object) -> NoReturn:
    """Before the container runs, a signal ends this command, which leaves nothing behind."""
    raise SystemExit(128 + number)


def _run(words: list[str], runner: Runner | None) -> int:
    from unionfs.cli import run_options, store_option
    from unionfs.container import life

    given = parser().parse_args(words)
    if not given.detach:
        run_options.check_terminal(given)
    container = run_options.created(store_option.opened_for_trees(given), given)
    if given.detach:
        life.run_in_background(container)
        print(container.id)
        return 0
    return life.run(container, runner=runner)
