"""Help texts: the overview fits on a screen, and every command and option is told of, with examples."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from unionfs.cli import main
from unionfs.cli.commands import COMMANDS, CONTAINERS, IMAGES, UNIONS
from unionfs.cli.overview import EXAMPLES, overview, parsers
from unionfs.cli.parser import Parser
from unionfs.options.table import GROUPS, OPTIONS

PARSERS = parsers(COMMANDS)


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    status: object = 0
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    assert status == 0
    return capsys.readouterr().out


def test_the_overview_fits_on_a_screen() -> None:
    lines = overview().splitlines()
    assert len(lines) <= 23  # and the prompt
    assert max(map(len, lines)) <= 80


def test_the_overview_names_every_command_and_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    out = help_of(["--help"], capsys)
    for name, text in UNIONS.items():
        assert f"\n  {name} " in out
        assert text in out
    for name in [*IMAGES, *CONTAINERS]:
        assert re.search(rf"[ ,] {re.escape(name)}(,|\n)", out), name
    assert "pyunionfs [-f] [-d] [SOURCE] TARGET -o lowerdir=" in out
    assert all(f"\n  {line} " in out for line, _ in EXAMPLES)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_all(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = PARSERS[command]
    out = help_of([command, "--help"], capsys)
    assert out == help_of(["help", command], capsys)
    assert out.startswith(f"usage: pyunionfs {command} ")
    assert max(map(len, out.splitlines())) <= 80
    assert parser.examples
    for line, what in parser.examples:
        assert f"\n  {line}\n      {what}" in out
    for action in parser._actions:
        assert action.help, f"{action} has no help"
        assert all(option in out for option in action.option_strings)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_a_command_line_that_is_understood(command: str) -> None:
    parser = PARSERS[command]
    for line, _ in [*parser.examples, *EXAMPLES]:
        inner = re.search(r"\$\((.*)\)", line)
        words = shlex.split(re.split(r" [|<>] ", line if inner is None else inner[1])[0])
        assert words[0] == "pyunionfs"
        assert words[1] in COMMANDS
        if words[1] == command:
            ends_with_a_command = any(each.nargs == argparse.REMAINDER for each in parser._actions)
            parse = parser.parse_args if ends_with_a_command else parser.parse_intermixed_args
            parse(words[2:])


def test_mount_tells_of_every_option_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    out = help_of(["mount", "--help"], capsys)
    tables = out.split("mount options for ")[1:]
    assert len(tables) == len(GROUPS)
    for group, table in zip(GROUPS, tables, strict=True):
        table = " ".join(table.partition("\n\n")[0].split())
        for name, option in OPTIONS.items():
            told = f" {option.syntax} {' '.join(option.text.split())}" in table
            assert told == (option.group == group), name


@pytest.mark.parametrize("columns", ["20", "60", "300"])
def test_any_width(columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = help_of(["mount", "--help"], capsys).splitlines()
    # What cannot be broken (an example, the way an option is written) is as long as it is.
    assert sum(len(line) > 100 for line in lines) == 0
    assert "topmost first" in " ".join(lines)


def test_usage_forms_are_one_line_each() -> None:
    parser = Parser("x", "does x")
    parser.add_argument("--option", metavar="A" * 90, help=argparse.SUPPRESS)
    for number in range(20):
        parser.add_argument(f"--with-number-{number}", metavar="VALUE", help="x")
    [form] = parser.usage_forms()
    assert form.startswith("pyunionfs x [-h] [--with-number-0 VALUE] ")
    assert form.endswith("[--with-number-19 VALUE]")
    assert len(PARSERS["mount"].usage_forms()) == 3
