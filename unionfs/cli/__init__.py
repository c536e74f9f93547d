"""The command line: `pyunionfs COMMAND ...`, one module per command.

Runs the command and turns its exception into one line on standard error and an exit status: 0 done, 1
refused or failed, 2 wrong command line. A module is imported when its command is run, to keep the start
short.
"""

from __future__ import annotations

import importlib
import os
import sys

from unionfs.cli import supervised
from unionfs.cli.commands import ALIASES, COMMANDS, FUSE_OVERLAYFS, module_of
from unionfs.cli.standard_streams import exit_with, open_missing
from unionfs.cli.text import RAW_OR_ESCAPED, printable
from unionfs.errors import OptionError, PyUnionFSError, explain

TYPE_CHECKING = False  # importing typing takes longer than all else here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def command() -> NoReturn:
    """Run the command of this process, and exit."""
    open_missing()
    exit_with(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.reconfigure(errors=RAW_OR_ESCAPED)  # type: ignore[union-attr]
    try:
        try:
            done = supervised.ask(words, main) if arguments is None else None
            return _run(words) if done is None else done
        finally:
            # Here, for SystemExit of argparse, too, and not at the interpreter's exit: see below.
            _flush()
    except PyUnionFSError as error:
        _print_error(str(error))
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe; at exit Python must not fail to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if "--debug" in words:
            raise
        _print_error(explain(error))
        return 1


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _print_error(text: str) -> None:
    print("pyunionfs: " + printable(text), file=sys.stderr)


def _run(words: list[str]) -> int:
    if os.path.basename(sys.argv[0]) == FUSE_OVERLAYFS:
        from unionfs.cli import fuse_overlayfs

        return fuse_overlayfs.run(words)
    command, *rest = words or ["--help"]
    if command == "help" and rest:
        command, rest = rest[0], ["--help"]
    command = ALIASES.get(command, command)
    if command in ("-h", "--help", "help"):
        from unionfs.cli.overview import overview

        print(overview())
        return 0
    if command in ("-V", "--version", "version"):
        from unionfs import __version__

        print(f"pyunionfs {__version__}")
        return 0
    if command not in COMMANDS:
        from unionfs.cli import fuse_overlayfs

        # The name of a command is a command: a SOURCE or TARGET of such a name is written ./mount.
        if fuse_overlayfs.is_meant(words):
            return fuse_overlayfs.run(words)
        raise OptionError(
            f"unknown command {command!r}: {_similar(command)}the commands are {', '.join(COMMANDS)};"
            " see `pyunionfs --help`"
        )
    module = importlib.import_module(module_of(command))
    status: int = module.run(rest)
    return status


def _similar(word: str) -> str:
    """A hint at the command of the most similar name."""
    import difflib

    similar = difflib.get_close_matches(word, [*COMMANDS, *ALIASES], n=1)
    return f"did you mean {similar[0]}? " if similar else ""
