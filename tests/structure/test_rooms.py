"""The table of rooms in docs/architecture.md is the tree: every module has one row, and no row a lost one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "unionfs"


def rooms() -> list[str]:
    """The paths that the rows name, below unionfs/. A bare file name lies in the folder named before it."""
    text = (ROOT / "docs/architecture.md").read_text()
    table = text[text.index("| room |") :].split("\n\n", 1)[0]
    named = []
    for row in table.splitlines()[2:]:
        directory = ""
        for name in re.findall(r"`([^`]+)`", row.split("|")[1]):
            if "/" in name:
                directory = name[: name.rindex("/") + 1]
                named.append(name)
            else:
                named.append(directory + name)
    return named


def test_what_the_rows_name_is_there() -> None:
    assert [name for name in rooms() if not (PACKAGE / name).exists()] == []


def test_no_module_has_two_rows() -> None:
    assert [name for name, count in Counter(rooms()).items() if count > 1] == []


def test_every_module_has_its_row() -> None:
    named = rooms()
    folders = tuple(name for name in named if name.endswith("/"))
    found = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]
    assert [
        name
        for name in found
        if not name.endswith("__init__.py") and name not in named and not name.startswith(folders)
    ] == []
