"""Every source file is small enough to be read at once, and says first what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["unionfs", "testing", "scripts", "tests"]
MOST_LINES = 450
KINDS = {".py", ".sh", ".c"}


def sources(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in KINDS and path.is_file()]


def too_long(paths: list[Path]) -> dict[Path, int]:
    lengths = {path: len(path.read_text().splitlines()) for path in paths}
    return {path: length for path, length in lengths.items() if length > MOST_LINES}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_over_450_lines(folder: str) -> None:
    assert too_long(sources(folder)) == {}


def test_a_file_that_is_too_long_is_named(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("pass\n" * (MOST_LINES + 1))
    (tmp_path / "short.py").write_text("pass\n" * MOST_LINES)
    assert too_long(sorted(tmp_path.iterdir())) == {tmp_path / "long.py": MOST_LINES + 1}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_says_what_it_is_for(folder: str) -> None:
    modules = [path for path in sources(folder) if path.suffix == ".py" and path.stat().st_size]
    assert [str(path.relative_to(ROOT)) for path in modules if not docstring(path)] == []


def docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text()))
