"""Every attribute of the shared objects has its row in docs/shared-state.md; invariants are cited where they
hold.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.transport.direct.server import Server

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"\b[Ii]nvariants?\s+(\d+)(?:\s+and\s+(\d+))?")


@pytest.mark.parametrize("shared", [OverlayFs, Inode, Directory, File, Server])
def test_every_attribute_has_a_row(shared: type) -> None:
    text = (ROOT / "docs/shared-state.md").read_text()
    section = text.split(f"\n## {shared.__name__}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(vars(shared)["__slots__"])


def invariants() -> list[int]:
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.split("\n## Invariants\n", 1)[1].split("\n## ", 1)[0]
    return [int(number) for number in re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE)]


def cited(folder: str) -> set[int]:
    here = Path(__file__)
    return {
        int(number)
        for path in (ROOT / folder).rglob("*.py")
        if path != here
        for found in CITED.finditer(path.read_text())
        for number in found.groups()
        if number
    }


def test_invariants_are_numbered_without_a_gap() -> None:
    assert invariants() == list(range(1, len(invariants()) + 1))


@pytest.mark.parametrize("folder", ["unionfs", "tests"])
def test_every_invariant_is_cited(folder: str) -> None:
    """In the code that keeps it and in a test that would fail without; and no number that does not exist."""
    assert cited(folder) == set(invariants())
