"""The man page pyunionfs(1), made from the parsers: `python -m unionfs.cli.manual` prints it.

Its texts are those of --help, except for what concerns the program as a whole. The parsers' texts are plain;
literal input between backquotes is set in bold.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping

from unionfs import __version__
from unionfs.cli import overview
from unionfs.cli.commands import COMMANDS
from unionfs.cli.parser import Example, Parser, Table

_DESCRIPTION = """\
pyunionfs mounts a union of directories as one writable tree: changes are written to the upper layer, lower
layers are never written. It has the semantics and the on-disk format of overlayfs of Linux. It is a FUSE
daemon, so it also works for unprivileged users.

The second form is that of fuse-overlayfs, for programs that run it, such as container engines. If root has
installed the mount helper, `mount -t fuse.pyunionfs SOURCE TARGET -o lowerdir=...` and such lines in fstab(5)
work, too."""

_EXIT_STATUS = [
    ("0", "Success. With the second form: the mount is ready."),
    ("1", "Failure; one line on standard error has the reason and what to do."),
    ("2", "The command line is wrong (1 with the second form)."),
]

_ENVIRONMENT = [
    ("NO_COLOR", "If not empty: no colors. There are never colors if the output is not a terminal."),
    (
        "XDG_RUNTIME_DIR",
        "Directory of the sockets by which `pyunionfs status` queries the daemons of an unprivileged user.",
    ),
    (
        "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT",
        "If set, with the second form: `whiteouts=aufs` is the default.",
    ),
]

_FILES = [
    (
        "/sbin/mount.fuse.pyunionfs, /sbin/umount.fuse.pyunionfs",
        "Helpers of mount(8) and umount(8) for the type fuse.pyunionfs, also in /etc/fstab.",
    ),
    ("/run/pyunionfs/", "Sockets of root's daemons, and their logs if there is no syslog."),
    (
        "/run/user/UID/pyunionfs/, /tmp/pyunionfs-UID/",
        "The same for an unprivileged user, unless XDG_RUNTIME_DIR is set.",
    ),
]

_SEE_ALSO = "mount(8), umount(8), fstab(5), fusermount3(1), fuse(4), user_namespaces(7), xattr(7)"


def page(commands: Mapping[str, str]) -> str:
    """The whole page in roff, for commands and their descriptions."""
    return "\n".join(_lines(commands)) + "\n"


def _lines(commands: Mapping[str, str]) -> Iterator[str]:
    day = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    yield f'.TH PYUNIONFS 1 {day} "pyunionfs {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"pyunionfs \\- {_text(overview.SUMMARY)}"
    yield ".SH SYNOPSIS"
    yield from _forms(overview.FORMS)
    yield ".SH DESCRIPTION"
    yield from _paragraphs(_DESCRIPTION)
    yield from _examples(overview.EXAMPLES)
    yield ".SH COMMANDS"
    for name, parser in overview.parsers(commands).items():
        yield f'.SS "pyunionfs {_text(name)}"'
        yield from _command(parser)
    yield ".SH EXIT STATUS"
    yield from _table(_EXIT_STATUS)
    yield ".SH ENVIRONMENT"
    yield from _table(_ENVIRONMENT)
    yield ".SH FILES"
    yield from _table(_FILES)
    yield ".SH SEE ALSO"
    yield from _paragraphs(_SEE_ALSO)


def _command(parser: Parser) -> Iterator[str]:
    yield from _forms(parser.usage_forms())
    yield from _paragraphs(parser.description or "", first=".PP")
    rows = [(_written(action), parser._get_formatter()._expand_help(action)) for action in _actions(parser)]
    yield from _table(rows)
    if parser.notes:
        yield from _paragraphs(parser.notes, first=".PP")
    tables: list[Table] = [] if parser.tables is None else parser.tables()
    for title, rows in tables:
        yield ".PP"
        yield f"{_text(title[0].upper() + title[1:])}:"
        yield from _table(rows)
    yield from _examples(parser.examples)


def _actions(parser: Parser) -> list[argparse.Action]:
    """Arguments first, then options; --help is everywhere."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    options = [action for action in shown if action.option_strings and "--help" not in action.option_strings]
    return [action for action in shown if not action.option_strings] + options


def _written(action: argparse.Action) -> str:
    """The syntax of an argument or option."""
    meta = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return meta
    value = "" if action.nargs == 0 else f" [{meta}]" if action.nargs == "?" else f" {meta}"
    return ", ".join(option + value for option in action.option_strings)


def _forms(forms: tuple[str, ...] | list[str]) -> Iterator[str]:
    yield ".nf"
    for form in forms:
        yield _line(_bold(form, " "))
    yield ".fi"


def _examples(examples: tuple[Example, ...]) -> Iterator[str]:
    for line, what in examples:
        yield ".PP"
        yield from _filled(_marked(what[0].upper() + what[1:] + ":"))
        yield ".PP"
        yield ".RS 4"
        yield ".nf"
        yield _line(f"\\fB{_text(line)}\\fR")
        yield ".fi"
        yield ".RE"


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    for written, meaning in rows:
        yield ".TP"
        yield _line(_bold(written, " =[]|,"))
        yield from _filled(_marked(meaning))


def _paragraphs(text: str, first: str | None = None) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number or first:
            yield ".PP"
        yield from _filled(_marked(paragraph))


def _bold(text: str, separators: str) -> str:
    """Literal text in bold, placeholders (all in capitals) in italics."""
    words = re.split(f"([{re.escape(separators)}]+)", text)
    return "".join(_word(word) if number % 2 == 0 else _text(word) for number, word in enumerate(words))


def _word(word: str) -> str:
    if not word:
        return ""
    letters = [character for character in word if character.isalpha()]
    font = "I" if letters and all(letter.isupper() for letter in letters) else "B"
    return f"\\f{font}{_text(word)}\\fR"


def _marked(text: str) -> str:
    """Running text; what is between backquotes in bold."""
    parts = text.split("`")
    return "".join(f"\\fB{_text(part)}\\fR" if place % 2 else _text(part) for place, part in enumerate(parts))


_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def _text(text: str) -> str:
    """Literal text, with roff's special characters escaped."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _filled(text: str) -> list[str]:
    """Running text, on lines of readable length in the source."""
    return [_line(line) for line in textwrap.wrap(text, 79, break_long_words=False, break_on_hyphens=False)]


def _line(text: str) -> str:
    """A text line, never a roff request."""
    return "\\&" + text if text.startswith((".", "'")) else text


if __name__ == "__main__":
    sys.stdout.write(page(COMMANDS))
