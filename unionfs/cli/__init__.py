"""The command line: `pyunionfs COMMAND ...`, one module a command.

Finds the command and turns what it raises into one line on standard error and an exit status: 0 done, 1
refused or failed, 2 the command line is wrong. Modules are loaded when their command is called, for start-up
time counts.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from unionfs.cli.text import RAW_OR_ESCAPED, printable
from unionfs.errors import OptionError, PyUnionFSError, explain

_COMMANDS = {
    "mount": "show a stack of directories as one writable tree",
    "umount": "end a mount and wait until its data is written out",
    "status": "list the mounts: layers, memory, requests, work under way",
    "changes": "list what a union holds that its lowers do not",
    "check": "find what does not fit together in the layers, and mend it",
    "completion": "print what makes a shell complete command lines",
}

_ALIASES = {"unmount": "umount"}

_OTHER_NAME = "fuse-overlayfs"
"""Under this name (a symlink, say) the command line is that program's, whatever the first word is."""


def command() -> NoReturn:
    """Run the command of this process and end it, without the clearing up of memory that takes long."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.reconfigure(errors=RAW_OR_ESCAPED)  # type: ignore[union-attr]
    try:
        try:
            return _run(words)
        finally:
            # Here, also when argparse ends with SystemExit, and not at the interpreter's end: see below.
            sys.stdout.flush()
    except PyUnionFSError as error:
        _complain(str(error))
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain at exit that it cannot flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if "--debug" in words:
            raise
        _complain(explain(error))
        return 1


def _complain(text: str) -> None:
    print("pyunionfs: " + printable(text), file=sys.stderr)


def _run(words: list[str]) -> int:
    if os.path.basename(sys.argv[0]) == _OTHER_NAME:
        from unionfs.cli import fuse_overlayfs

        return fuse_overlayfs.run(words)
    command, *rest = words or ["--help"]
    if command == "help" and rest:
        command, rest = rest[0], ["--help"]
    command = _ALIASES.get(command, command)
    if command in ("-h", "--help", "help"):
        from unionfs.cli.overview import overview

        print(overview(_COMMANDS))
        return 0
    if command in ("-V", "--version", "version"):
        from unionfs import __version__

        print(f"pyunionfs {__version__}")
        return 0
    if command not in _COMMANDS:
        from unionfs.cli import fuse_overlayfs

        # A word that is a command is one: whoever has a SOURCE or TARGET of such a name writes ./mount.
        if fuse_overlayfs.is_meant(words):
            return fuse_overlayfs.run(words)
        raise OptionError(
            f"unknown command {command!r}: {_alike(command)}it is one of {', '.join(_COMMANDS)};"
            " see `pyunionfs --help`"
        )
    module = importlib.import_module(f"unionfs.cli.{command}")
    status: int = module.run(rest)
    return status


def _alike(word: str) -> str:
    """What may have been meant."""
    import difflib

    alike = difflib.get_close_matches(word, [*_COMMANDS, *_ALIASES], n=1)
    return f"did you mean {alike[0]}? " if alike else ""
