"""docs/offline.md is true: its examples give what it says, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, needs_fuse, needs_root, scratch
from tests.support.pages import ShellBlock
from tests.support.transports import one_transport
from unionfs.cli.check import as_json
from unionfs.offline.change import Change
from unionfs.offline.findings import Finding, Kind, Severity
from unionfs.offline.repair import Outcome
from unionfs.overlay.config import UnionConfig

TEXT = (REPOSITORY / "docs/offline.md").read_text()


def run_example(block: ShellBlock, tmp_path: Path) -> tuple[str, str]:
    """What the example says, run in a directory called /srv, and what it should."""
    behind = TEXT.partition(block.script)[2]
    shown = re.match(r"\n```\n\nsays\n\n```\n(.*?)^```", behind, re.DOTALL | re.MULTILINE)
    assert shown
    with scratch(tmp_path) as where:
        return block.run(where, tmp_path).replace(str(where), "/srv"), shown[1]


@one_transport
@needs_fuse
@pytest.mark.shell_block("docs/offline.md", "What has changed: `pyunionfs changes`")
def test_the_example_says_what_it_says(shell_block: ShellBlock, tmp_path: Path) -> None:
    output, expected = run_example(shell_block, tmp_path)
    # How much space objects take is up to the filesystem.
    unsaid = (re.compile(r"; .* in upper"), "; some in upper")
    assert unsaid[0].sub(unsaid[1], output) == unsaid[0].sub(unsaid[1], expected)


@one_transport
@needs_root
@needs_fuse
@pytest.mark.shell_block("docs/offline.md", "What does not fit together: `pyunionfs check`")
def test_the_example_of_a_repair_says_what_it_says(shell_block: ShellBlock, tmp_path: Path) -> None:
    output, expected = run_example(shell_block, tmp_path)
    assert output == expected


def test_the_table_of_kinds_is_complete() -> None:
    table = TEXT.partition("### What is found")[2].partition("### ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    named = {kind.strip("`") for row in rows for kind in row.split(", ")}
    assert named == {str(kind) for kind in Kind}


def test_what_json_holds_is_said() -> None:
    fields = set(re.findall(r"`(\w+)`", TEXT.partition("### For programs: `check --json`")[2]))
    config = UnionConfig(("/l",), "/u", "/w")
    finding = Finding(Kind.WHITEOUT, Severity.WARNING, b"/p", "reason", "advice")
    answer = as_json(config, [Outcome(finding)], 1, 1)
    assert fields == answer.keys() | answer["findings"][0].keys()


def test_the_table_of_fields_is_complete() -> None:
    table = TEXT.partition("### For programs")[2].partition("## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    other = {"in_upper": "data", "source": "from"}
    assert named == {other.get(name, name) for name in Change.__slots__ if name != "number"}
