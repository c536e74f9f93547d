"""The texts about the program as a whole: `pyunionfs --help`, and the beginning of the man page.

The overview must fit on a screen of 24 lines of 80 characters.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Mapping

from unionfs.cli.commands import CONTAINERS, IMAGES, UNIONS, module_of
from unionfs.cli.parser import Example, Parser

SUMMARY = "a union filesystem in FUSE, with the semantics of kernel overlayfs"

FORMS = (
    "pyunionfs COMMAND ...",
    "pyunionfs [-f] [-d] [SOURCE] TARGET -o lowerdir=L[,upperdir=U,workdir=W]",
)
"""The synopsis; the second form is fuse-overlayfs's, for programs that run it."""

EXAMPLES: tuple[Example, ...] = (
    ("pyunionfs mount base upper work merged", "changes go to upper"),
    ("pyunionfs mount site:base merged", "site over base, read-only"),
    ("pyunionfs umount merged", "write all data, and unmount"),
)


def overview() -> str:
    """The text of `pyunionfs --help`."""
    lines = [f"usage: {FORMS[0]}", *(f"       {form}" for form in FORMS[1:]), ""]
    lines += [f"{SUMMARY[0].upper()}{SUMMARY[1:]}.", "", "commands:"]
    lines += [f"  {name:<12}{text}" for name, text in UNIONS.items()]
    for title, group in (("images", IMAGES), ("containers", CONTAINERS)):
        if group:
            lines += textwrap.wrap(
                ", ".join(group), 80, initial_indent=f"{title}:".ljust(14), subsequent_indent=" " * 14
            )
    width = max(len(line) for line, _ in EXAMPLES)
    lines += ["", "examples:", *(f"  {line:<{width}}  {what}" for line, what in EXAMPLES), ""]
    lines += ["`pyunionfs COMMAND --help` has details, `pyunionfs --version` the version."]
    return "\n".join(lines)


def parsers(commands: Mapping[str, str]) -> dict[str, Parser]:
    """The parser of each command, in order."""
    return {name: importlib.import_module(module_of(name)).parser() for name in commands}
