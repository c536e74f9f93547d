"""The argument parser that every command uses: its complaints are one line, as all others are.

What it knows is all that help texts, the man page and completion say of a command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from unionfs.errors import OptionError

Example = tuple[str, str]
"""A command line, and what it does."""


class Parser(argparse.ArgumentParser):
    """argparse, with OptionError instead of a usage text and an exit.

    *examples* are shown at the end of --help, and *notes*, which is laid out already, before them.
    """

    def __init__(
        self, command: str, description: str, notes: str | None = None, *, examples: Sequence[Example] = ()
    ) -> None:
        self.command = command
        self.notes = notes
        self.examples = tuple(examples)
        parts = [] if notes is None else [notes]
        if examples:
            parts.append("examples:\n" + "\n".join(f"  {line}\n      {what}" for line, what in examples))
        super().__init__(
            prog=f"pyunionfs {command}",
            description=description,
            epilog="\n\n".join(parts) or None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see `{self.prog} --help`")
