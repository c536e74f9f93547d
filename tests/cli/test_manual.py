"""The man page: it tells of everything, is good roff, and shows texts as they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_terminal import ROOT
from unionfs import __version__
from unionfs.cli import manual
from unionfs.cli.commands import COMMANDS
from unionfs.cli.overview import EXAMPLES, FORMS, parsers
from unionfs.options.table import GROUPS, OPTIONS


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as `make install` makes it."""
    path = tmp_path_factory.mktemp("man") / "pyunionfs.1"
    done = subprocess.run(
        [sys.executable, "-m", "unionfs.cli.manual"], cwd=ROOT, capture_output=True, check=True
    )
    path.write_bytes(done.stdout)
    return path


@pytest.fixture(scope="module")
def text(source: Path) -> str:
    """The page as it is read, each run of blanks one blank."""
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-rLL=2000n", "-rHY=0", str(source)],
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    plain = done.stdout.decode().replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-")
    return " ".join(plain.split())


def squeezed(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def test_every_command_and_all_that_it_knows_is_there(text: str) -> None:
    for command, parser in parsers(COMMANDS).items():
        assert f" pyunionfs {command} {parser.usage_forms()[0]} " in text
        for said in (parser.description or "", parser.notes):
            for paragraph in said.split("\n\n"):
                assert squeezed(paragraph) in text
        for form in parser.usage_forms():
            assert form in text
        for action in parser._actions:
            if "--help" not in action.option_strings:
                meaning = squeezed(parser._get_formatter()._expand_help(action))
                assert re.search(f"{re.escape(manual._written(action))} {re.escape(meaning)}", text)
        for line, what in parser.examples:
            assert f"{what[1:]}: {squeezed(line)}" in text


def test_every_mount_option_is_there_in_its_group(text: str) -> None:
    parts = text.split(" Mount options for ")[1:]
    assert len(parts) == len(GROUPS)
    for group, part in zip(GROUPS, parts, strict=True):
        for name, option in OPTIONS.items():
            told = f" {option.syntax} {squeezed(option.text)} " in f"{part} "
            assert told == (option.group == group), name


def test_what_concerns_the_whole_program(text: str) -> None:
    for form in FORMS:
        assert form in text
    for line, _ in EXAMPLES:
        assert line in text
    assert "mount -t fuse.pyunionfs SOURCE TARGET -o lowerdir=... and such lines in fstab(5)" in text
    assert f"pyunionfs {__version__} " in text
    for heading in ("NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT NO_COLOR", "FILES", "SEE ALSO"):
        assert f" {heading} " in text


def test_the_date_can_be_said() -> None:
    env = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
    done = subprocess.run(
        [sys.executable, "-m", "unionfs.cli.manual"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.stdout.startswith(".TH PYUNIONFS 1 1970-01-02 ")


@pytest.mark.parametrize(
    "checker",
    [
        ["mandoc", "-Tlint", "-Wwarning"],
        ["groff", "-man", "-ww", "-z", "-rCHECKSTYLE=3"],
        ["man", "--warnings", "-l"],
    ],
    ids=lambda checker: str(checker[0]),
)
def test_checkers_find_nothing(source: Path, checker: list[str]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"needs {checker[0]}")
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    done = subprocess.run([*checker, str(source)], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode == 0
    if checker[0] == "mandoc":
        assert done.stdout == ""


@pytest.mark.parametrize("words", [".so /etc/passwd", "'br", "a\\fBb", "it's `x`", '"q" ~ ^ -'])
def test_no_text_is_taken_for_roff(words: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    lines = [".TH X 1 2026-01-01 x x", ".SH T", *manual._paragraphs(words)]
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou"], input="\n".join(lines) + "\n", capture_output=True, text=True
    )
    assert done.stderr == ""
    shown = done.stdout.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-")
    assert f" {words.replace('`', '')}\n" in shown
