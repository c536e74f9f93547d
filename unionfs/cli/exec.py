"""`pyunionfs exec`: runs a further process in a container that runs, and ends with its exit status."""

from __future__ import annotations

import argparse
import sys

import msgspec

from unionfs.cli import run_options, store_option
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container import life, record
from unionfs.container.process import merged_env
from unionfs.container.runner import StartError
from unionfs.errors import OptionError


def parser() -> Parser:
    made = Parser(
        "exec",
        "Run COMMAND in a container that runs, beside its process: in the same namespaces, with the same"
        " capabilities, and by default with its environment, user and working directory.",
        "Signals and exit statuses are as of `pyunionfs run`. COMMAND ends with the container at the latest.",
        usage=("pyunionfs exec [OPTION...] CONTAINER COMMAND [ARG...]",),
        examples=[
            ("pyunionfs exec -it web bash", "a shell on a terminal"),
            ("pyunionfs exec -u nobody -w /tmp web ls", "as another user, in another directory"),
        ],
    )
    run_options.add_process(made)
    store_option.add(made)
    made.add_argument("container", metavar="CONTAINER", help="name or id")
    made.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="command and arguments")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if not given.command:
        raise OptionError("no command given: say what to run in the container")
    run_options.check_terminal(given)
    container = record.find(store_option.opened(given), given.container)
    first = container.record.process
    spec = msgspec.structs.replace(
        first,
        args=tuple(given.command),
        env=merged_env(first.env, run_options.environment(given.env, given.env_file)),
        cwd=run_options.workdir(given.workdir) or first.cwd,
        user=given.user or first.user,
        tty=given.tty,
        interactive=given.interactive,
    )
    try:
        return life.join(container, spec)
    except StartError as error:
        print("pyunionfs: " + printable(str(error)), file=sys.stderr)
        return error.status
