"""`pyunionfs completion`: what makes a shell complete this program's command lines.

shtab makes the script from the parsers; what argparse cannot know (mount options, lists of directories, the
mounts that there are) is added to it. What kind of thing an argument is, its metavar says.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from unionfs.cli import overview
from unionfs.cli.completion_shells import EXTRAS, KINDS
from unionfs.cli.parser import Parser

SHELLS = ("bash", "zsh", "fish")

_KIND_OF = {
    "DIRECTORY": "layers",
    "LOWERS": "layers",
    "LOWER": "layers",
    "UPPER": "directory",
    "WORK": "directory",
    "MERGED": "mountpoint",
    "UPPER|MERGED": "any_directory",
    "FILE": "file",
    "OPTIONS": "mount_options",
    "SECONDS": None,
    "SHELL": None,
}
"""What is completed for a metavar; None: nothing, or argparse's own choices."""


def parser() -> Parser:
    made = Parser(
        "completion",
        "Print what makes a shell complete commands, options, mount options, directories and mountpoints."
        " `make install` puts it where shells look for it.",
        examples=[
            ('eval "$(pyunionfs completion bash)"', "for this session; in zsh the same with zsh"),
            (
                "pyunionfs completion fish > ~/.config/fish/completions/pyunionfs.fish",
                "for all sessions to come",
            ),
        ],
    )
    made.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    return made


def run(words: list[str]) -> int:
    from unionfs.cli import _COMMANDS

    print(script(parser().parse_args(words).shell, _COMMANDS))
    return 0


def script(shell: str, commands: Mapping[str, str]) -> str:
    """The completion script of one of SHELLS."""
    import shtab

    made: str = shtab.complete(_whole(commands), shell, preamble=EXTRAS[shell]())
    if shell == "zsh":
        # The value may follow without a blank; and any number of arguments is not one that may be missing.
        made = made.replace('"*-o[', '"*-o+[').replace('"(*)::', '"*:')
    if shell == "bash":
        made += "\ncomplete -o bashdefault -F _pyunionfs pyunionfs\n"
    return made


def _whole(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """All parsers as one, as shtab wants it."""
    whole = argparse.ArgumentParser("pyunionfs", description=overview.SUMMARY, add_help=False)
    whole.add_argument("-h", "--help", action="help", help="show what commands there are")
    whole.add_argument("-V", "--version", action="version", version="", help="print the version")
    below = whole.add_subparsers(metavar="COMMAND", parser_class=argparse.ArgumentParser)
    for name, each in overview.parsers(commands).items():
        for action in each._actions:
            kind = kind_of(action)
            if isinstance(action.metavar, str):
                action.metavar = _plain(action.metavar)  # shtab takes it into zsh's syntax as it is
            if kind is not None:
                setattr(action, "complete", KINDS[kind])  # noqa: B010  shtab's own name, which no type has
        below.add_parser(
            name, help=commands[name], description=commands[name], parents=[each], add_help=False
        )
    return whole


def kind_of(action: argparse.Action) -> str | None:
    """What kind of thing an argument or the value of an option is, for KINDS."""
    if not isinstance(action.metavar, str):
        return None
    return _KIND_OF[_plain(action.metavar)]


def _plain(metavar: str) -> str:
    return metavar.partition("[")[0]
