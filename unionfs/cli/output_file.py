"""`--output FILE`, for the commands that write an archive: a file that appears whole, or standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unionfs.cli.parser import Parser
from unionfs.errors import ImageError, OptionError, explain
from unionfs.image import archive_save


def add(parser: Parser) -> None:
    """--output, into `output`."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="write to this file (default: standard output)"
    )


def refuse_terminal(command: str) -> None:
    """Raise OptionError where standard output is a terminal: an archive is nothing to look at."""
    if sys.stdout.isatty():
        raise OptionError(f"{command}: standard output is a terminal: give --output FILE, or redirect it")


@contextmanager
def opened(name: str) -> Iterator[int]:
    """A descriptor to write to. A file appears whole, readable for its owner only, as from Docker."""
    if name == "-":
        yield 1
        return
    path = Path(os.path.realpath(name))
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)
            return
        with archive_save.beside(path) as place:
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                yield fd
            finally:
                os.close(fd)
            os.rename(place, path)
    except OSError as error:
        raise ImageError(f"cannot write {name}: {explain(error)}") from None
