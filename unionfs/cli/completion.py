"""`pyunionfs completion`: the completion script of a shell.

shtab makes it from the parsers; functions for mount options, lists of directories and existing mounts, which
argparse does not know, are added. The metavar of an argument says how it is completed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from unionfs.cli import overview
from unionfs.cli.commands import COMMANDS
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
    "IMAGE": "image",
    "CONTAINER": "container",
    "CONTAINER|IMAGE|MERGED": "anything",
    "CONTAINER|IMAGE": "anything",
    "CONTAINER|UPPER|MERGED": "anything",
    "TREE|TAR": "file",
    "AUTHOR": None,
    "MESSAGE": None,
    "INSTRUCTION": None,
    "KIND": None,
    "SRC": "file",
    "DEST": "file",
    "COMMAND": None,
    "PATH": None,
    "RUNTIME": None,
    "WHEN": None,
    "SRC:DST": None,
    "USER": None,
    "WHICH": None,
    "NAME": None,
    "PASSWORD": None,
    "REGISTRY": None,
    "REPOSITORY": None,
    "true|false": None,
    "TEMPLATE": None,
    "TYPE": None,
    "KEY=VALUE": None,
    "SIZE": None,
    "FORMAT": None,
    "OS/ARCHITECTURE": None,
    "OPTIONS": "mount_options",
    "SECONDS": None,
    "SHELL": None,
}
"""What completes a metavar; None: nothing, or argparse's choices."""


def parser() -> Parser:
    made = Parser(
        "completion",
        "Print a completion script for commands, options, mount options, directories, mountpoints, images and"
        " containers."
        " `make install` installs it for all users.",
        examples=[
            ('eval "$(pyunionfs completion bash)"', "for this session; likewise for zsh"),
            (
                "pyunionfs completion fish > ~/.config/fish/completions/pyunionfs.fish",
                "for all later sessions",
            ),
        ],
    )
    made.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    return made


def run(words: list[str]) -> int:
    print(script(parser().parse_args(words).shell, COMMANDS))
    return 0


def script(shell: str, commands: Mapping[str, str]) -> str:
    """The completion script of one of SHELLS."""
    import shtab

    made: str = shtab.complete(_whole(commands), shell, preamble=EXTRAS[shell]())
    if shell == "zsh":
        # The value may follow without a blank; and arguments may be repeated.
        made = made.replace('"*-o[', '"*-o+[').replace('"(*)::', '"*:')
    if shell == "bash":
        made += "\ncomplete -o bashdefault -F _pyunionfs pyunionfs\n"
    return made


def _whole(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """All parsers as one, for shtab."""
    whole = argparse.ArgumentParser("pyunionfs", description=overview.SUMMARY, add_help=False)
    whole.add_argument("-h", "--help", action="help", help="list the commands")
    whole.add_argument("-V", "--version", action="version", version="", help="print the version")
    below = whole.add_subparsers(metavar="COMMAND", parser_class=argparse.ArgumentParser)
    for name, each in overview.parsers(commands).items():
        for action in each._actions:
            kind = kind_of(action)
            if isinstance(action.metavar, str):
                action.metavar = _plain(action.metavar)  # shtab puts it into zsh's syntax unescaped
            if kind is not None:
                setattr(action, "complete", KINDS[kind])  # noqa: B010  shtab's own name, which no type has
        below.add_parser(
            name, help=commands[name], description=commands[name], parents=[each], add_help=False
        )
    return whole


def kind_of(action: argparse.Action) -> str | None:
    """The kind of an argument or of the value of an option, for KINDS."""
    if not isinstance(action.metavar, str):
        return None
    return _KIND_OF[_plain(action.metavar)]


def _plain(metavar: str) -> str:
    return metavar.partition("[")[0]
