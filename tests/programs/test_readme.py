"""The README is true: its first mount works as copied, and it and the page of options know all options."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, needs_fuse, needs_root
from tests.support.pages import ShellBlock
from tests.support.transports import one_transport
from unionfs.control import status_schema
from unionfs.options.table import GROUPS, OPTIONS
from unionfs.overlay.under_way import COPY_UP, COPYING, LISTING, READING, WAITING, WRITING_OUT, Report

README = (REPOSITORY / "README.md").read_text()


@one_transport
@needs_root
@needs_fuse
@pytest.mark.shell_block("README.md", "A first mount")
def test_the_first_mount_works_as_copied(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path)
    assert said.startswith("from base\nfrom site\n")
    assert re.search(r"^c.* 0, +0 .* bye$", said, re.MULTILINE)
    assert (space / "upper/hello").read_text() == "from base\nand more\n"
    assert (space / "base/hello").read_text() == "from base\n"
    assert os.listdir(space / "merged") == []


@one_transport
def test_the_table_of_options_is_complete() -> None:
    text = (REPOSITORY / "docs/options.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE)
    known = [
        (option.syntax.replace("|", "\\|"), option.text.replace("|", "\\|")) for option in OPTIONS.values()
    ]
    assert rows == known
    assert re.findall("^## (.+)$", text, re.MULTILINE) == list(GROUPS.values())


@one_transport
def test_the_options_that_matter_most_are_options() -> None:
    table = README.partition("\n## Options\n")[2].partition("\n## ")[0]
    firsts = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    words = [word for first in firsts for word in re.findall("`([^`]+)`", first)]
    assert len(words) > 10
    for word in words:
        name, equals, value = word.partition("=")
        assert name in OPTIONS
        if value and not value.isupper():
            OPTIONS[name].value(value)
        assert bool(equals) == OPTIONS[name].takes_value


@one_transport
@needs_root
@needs_fuse
@pytest.mark.shell_block("README.md", "On the command line")
def test_the_commands_work_as_copied(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    for name in ("base", "upper", "work", "merged"):
        (space / name).mkdir()
    before = "pyunionfs mount base upper work merged; touch merged/new"
    said = shell_block.run(
        space, tmp_path, shell="bash -e", before=before, after="pyunionfs umount merged", quiet=True
    )
    assert "COPY-UPS\n" in said
    assert f"\n  upper     {space}/upper\n" in said
    assert re.search(r"^A +/?new$", said, re.MULTILINE)
    assert "usage: pyunionfs status" in said


@one_transport
def test_the_page_about_status_tells_of_every_key() -> None:
    page = (REPOSITORY / "docs/status.md").read_text()
    first, second = page.partition("Each entry of `under_way`")[::2]
    keys = re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE)
    assert set(keys) == {*status_schema._SHAPE, "state", "pid", "user"}
    assert keys[:5] == ["mountpoint", "device", "state", "pid", "user"]
    assert set(re.findall(r"^\| `(\w+)` \|", second, re.MULTILINE)) == set(Report.__annotations__)
    said = set(re.findall(r"`(\w+)`", second))
    assert {COPY_UP, LISTING, WAITING, COPYING, WRITING_OUT, READING} <= said
