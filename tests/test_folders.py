"""Tests and scripts share by `testing`, and none of the three imports from one that stands above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY

MAY_NOT = {
    "unionfs": {"tests", "scripts", "testing"},
    "testing": {"tests", "scripts", "pytest"},
    "scripts": {"tests", "pytest"},
    "tests": {"scripts"},
}


def imports(file: Path) -> Iterator[str]:
    """The top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("folder", MAY_NOT)
def test_what_a_folder_imports(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    wrong = {str(file): MAY_NOT[folder].intersection(imports(file)) for file in files}
    assert {file: names for file, names in wrong.items() if names} == {}
