"""The argument parser that every command uses: its complaints are one line, as all others are."""

from __future__ import annotations

import argparse
from typing import NoReturn

from unionfs.errors import OptionError


class Parser(argparse.ArgumentParser):
    """argparse, with OptionError instead of a usage text and an exit."""

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"pyunionfs {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see `{self.prog} --help`")
