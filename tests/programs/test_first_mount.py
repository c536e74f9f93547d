"""docs/first-mount.md: its blocks work one after the other, as a reader runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.mounts import needs_fuse, needs_root
from tests.support.pages import Place, ShellBlock
from tests.support.transports import one_transport

pytestmark = [one_transport, needs_root, needs_fuse]

PAGE = "docs/first-mount.md"
LAYERS = "Two layers and a place for changes"
CHANGES = "Changes go to upper"
END = "The end, and the next time"
READ_ONLY = "To look only"


def scripts(*headings: str) -> str:
    """What was run before."""
    return "\n".join(pages.shell_block(Place(PAGE, heading)).script for heading in headings)


@pytest.mark.shell_block(PAGE, LAYERS)
def test_two_layers(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path, after="pyunionfs umount merged")
    assert said == "from base\nfrom site\n"


@pytest.mark.shell_block(PAGE, CHANGES)
def test_changes(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path, before=scripts(LAYERS), after="pyunionfs umount merged")
    for line in ("C /hello", "D /bye", "A /new", "A /new/file", "from base\nto be deleted"):
        assert f"\n{line}\n" in said
    assert f"\n  upper     {space}/upper\n" in said


@pytest.mark.shell_block(PAGE, END)
def test_the_end(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path, before=scripts(LAYERS, CHANGES))
    assert "\nfrom base\nand more\n" in said
    assert "names checked: no findings\n" in said
    assert os.listdir(space / "merged") == []


@pytest.mark.shell_block(PAGE, READ_ONLY)
def test_read_only(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path, before=scripts(LAYERS, CHANGES, END))
    assert said.endswith("from base\n"), "upper is not shown"
