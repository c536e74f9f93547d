"""The argument parser of every command; its errors are one line, as all others.

Help texts (here), the man page (`manual.py`) and completion (`completion.py`) are made from it. Texts are
laid out only to be printed: `mount` must not pay for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from unionfs.errors import OptionError

Example = tuple[str, str]
"""A command line, and what it does."""

Table = tuple[str, list[tuple[str, str]]]
"""A title, and rows of syntax and meaning."""

_WIDEST = 100
"""Longer lines are hard to read on any terminal."""
_COLUMN = 28
"""The column in which the meanings of a table begin."""


class Parser(argparse.ArgumentParser):
    """argparse, with OptionError instead of a usage text and an exit.

    In *description* and *notes* blank lines separate paragraphs. --help shows the notes after the options,
    then the *tables*, then the examples. *usage* has the forms that argparse cannot make by itself.
    """

    def __init__(
        self,
        command: str,
        description: str,
        notes: str = "",
        *,
        examples: Sequence[Example] = (),
        tables: Callable[[], list[Table]] | None = None,
        usage: Sequence[str] = (),
    ) -> None:
        self.command = command
        self.notes = notes
        self.examples = tuple(examples)
        self.tables = tables
        super().__init__(
            prog=f"pyunionfs {command}",
            usage="\n       ".join(usage) or None,
            description=description,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self._positionals.title = "arguments"

    def add_mount_options(self, text: str) -> None:
        """-o, into `options`: a list of texts for `mount_options.parse`."""
        self.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS", help=text)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see `{self.prog} --help`")

    def format_help(self) -> str:
        width = _width()
        parts = [super().format_help().rstrip("\n")]
        if self.notes:
            parts.append(_paragraphs(self.notes, width))
        if self.tables is not None:
            parts += [f"{title}:\n{_rows(rows, width)}" for title, rows in self.tables()]
        if self.examples:
            parts.append(
                "\n".join(["examples:", *(f"  {line}\n      {what}" for line, what in self.examples)])
            )
        return "\n\n".join(parts) + "\n"

    def usage_forms(self) -> list[str]:
        """Each form of the command on one line."""
        formatter = _Formatter(self.prog, 10_000)
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups, "")
        return [line.strip() for line in formatter.format_help().splitlines() if line.strip()]


class _Formatter(argparse.HelpFormatter):
    """Keeps paragraphs."""

    def __init__(self, prog: str, width: int | None = None) -> None:
        super().__init__(prog, max_help_position=_COLUMN, width=_width() if width is None else width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return _paragraphs(text, width, indent)


def _width() -> int:
    # As shutil.get_terminal_size, which costs 4 ms to load; argparse makes a formatter for each argument.
    columns = os.environ.get("COLUMNS", "")
    if not columns.isdigit():
        try:
            columns = str(os.get_terminal_size(1).columns)
        except OSError:
            columns = "80"
    return min(max(int(columns) or 80, 40), _WIDEST)


def _paragraphs(text: str, width: int, indent: str = "") -> str:
    import textwrap

    return "\n\n".join(
        textwrap.fill(" ".join(part.split()), width, initial_indent=indent, subsequent_indent=indent)
        for part in text.split("\n\n")
    )


def _rows(rows: list[tuple[str, str]], width: int) -> str:
    import textwrap

    lines = []
    for syntax, meaning in rows:
        first = f"  {syntax}"
        if len(first) > _COLUMN - 2:
            lines.append(first)
            first = ""
        lines += textwrap.wrap(
            meaning,
            width,
            initial_indent=first.ljust(_COLUMN),
            subsequent_indent=" " * _COLUMN,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
