"""The man page pyunionfs(1), made from what the parsers know: `python -m unionfs.cli.manual` prints it.

It says nothing that help texts do not say, but for what concerns the program as a whole. Texts of the parsers
are plain; what stands between backquotes is something to type and is set in bold.
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
from unionfs.cli.parser import Example, Parser, Table

_DESCRIPTION = """\
pyunionfs shows a stack of directories as one writable tree: changes go to the upper directory, the lower ones
are never written. It has the semantics and the on-disk format of the overlayfs of Linux, and is an ordinary
program on FUSE, so it also works for ordinary users.

The second form is that of fuse-overlayfs, for programs that call that one, such as container engines. Where
root has installed it, `mount -t fuse.pyunionfs SOURCE TARGET -o lowerdir=...` and such lines in fstab(5) work
as well."""

_EXIT_STATUS = [
    ("0", "It was done. With the second form: the mount serves."),
    ("1", "It was refused or has failed; one line on standard error says why, and what to do."),
    ("2", "The command line is wrong. (1 with the second form.)"),
]

_ENVIRONMENT = [
    ("NO_COLOR", "With any value: no colours. There are none in any case where the output is no terminal."),
    ("XDG_RUNTIME_DIR", "Where an ordinary user's daemons have the sockets that `pyunionfs status` asks."),
    (
        "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT",
        "With any value, and the second form: deletions are recorded by .wh. files (`whiteouts=aufs`).",
    ),
]

_FILES = [
    (
        "/sbin/mount.fuse.pyunionfs, /sbin/umount.fuse.pyunionfs",
        "What mount(8) and umount(8) call for the type fuse.pyunionfs, and for such lines in /etc/fstab.",
    ),
    ("/run/pyunionfs/", "The sockets of root's daemons, and their logs where there is no syslog."),
    (
        "/run/user/UID/pyunionfs/, /tmp/pyunionfs-UID/",
        "The same of an ordinary user, where XDG_RUNTIME_DIR says nothing else.",
    ),
]

_SEE_ALSO = "mount(8), umount(8), fstab(5), fusermount3(1), fuse(4), user_namespaces(7), xattr(7)"


def page(commands: Mapping[str, str]) -> str:
    """The whole page in roff, for commands with what each does."""
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
    """How an argument or option is written."""
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
    """What is to be typed as it stands in bold, what stands for something (all in capitals) in italics."""
    words = re.split(f"([{re.escape(separators)}]+)", text)
    return "".join(_word(word) if number % 2 == 0 else _text(word) for number, word in enumerate(words))


def _word(word: str) -> str:
    if not word:
        return ""
    letters = [character for character in word if character.isalpha()]
    font = "I" if letters and all(letter.isupper() for letter in letters) else "B"
    return f"\\f{font}{_text(word)}\\fR"


def _marked(text: str) -> str:
    """A sentence; what stands between backquotes in bold."""
    parts = text.split("`")
    return "".join(f"\\fB{_text(part)}\\fR" if place % 2 else _text(part) for place, part in enumerate(parts))


_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def _text(text: str) -> str:
    """Characters as they are, none of them roff's."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _filled(text: str) -> list[str]:
    """Running text, on lines that are not too long for those who read the source."""
    return [_line(line) for line in textwrap.wrap(text, 79, break_long_words=False, break_on_hyphens=False)]


def _line(text: str) -> str:
    """A line that is no request whatever it begins with."""
    return "\\&" + text if text.startswith((".", "'")) else text


if __name__ == "__main__":
    from unionfs.cli import _COMMANDS

    sys.stdout.write(page(_COMMANDS))
