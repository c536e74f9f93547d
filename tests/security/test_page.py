"""docs/security.md: every row of its tables names tests, and each of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.support import pages
from tests.support.mounts import REPOSITORY

PAGE = REPOSITORY / "docs/security.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)*)`")
MADE = re.compile(r"`make ([\w-]+)`")


def rows() -> list[str]:
    """The rows of tables whose last column says by what they are shown."""
    found: list[str] = []
    inside = False
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.endswith("| shown by |"):
            inside = True
        elif inside and not line.startswith("|---"):
            found.append(line)
    return found


@cache
def definitions(file: Path) -> set[tuple[str, ...]]:
    """The tests of a file, by names of classes and functions."""
    found: set[tuple[str, ...]] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add((node.name,))
        elif isinstance(node, ast.ClassDef):
            found |= {(node.name, each.name) for each in node.body if isinstance(each, ast.FunctionDef)}
    return {names for names in found if names[-1].startswith("test_")}


def is_there(test: str) -> bool:
    path, *names = test.split("::")
    file = REPOSITORY / path
    return file.is_file() and (not names or tuple(names) in definitions(file))


def test_every_row_names_its_test() -> None:
    assert len(rows()) > 60
    shown = [row.split(" | ")[-1] for row in rows()]
    assert [row for row, last in zip(rows(), shown, strict=True) if not NAMED.search(last)] == []


def test_what_the_page_names_is_there() -> None:
    text = PAGE.read_text()
    assert [test for test in NAMED.findall(text) if not is_there(test)] == []
    assert set(MADE.findall(text)) <= set(pages.make_targets())


def test_every_test_of_this_folder_is_named() -> None:
    named = set(NAMED.findall(PAGE.read_text()))
    own = {
        "::".join((str(file.relative_to(REPOSITORY)), *names))
        for file in sorted((REPOSITORY / "tests/security").glob("test_*.py"))
        for names in definitions(file)
        if file.name != "test_page.py"
    }
    helpers = {name for name in own if name.rpartition("::")[2] in NOT_NAMED}
    assert own - helpers - named == set()
    assert len(helpers) == len(NOT_NAMED)


NOT_NAMED = {
    "test_chmod_of_a_symlink_is_of_nothing_else",
    "test_a_symlink_of_ones_own_leads_to_the_log_file",
    "test_a_program_that_is_started_without_more_ado_has_it",
    "test_each_one_that_is_kept_has_its_case",
    "test_the_page_has_a_row_for_each_capability",
}
"""What shows no row, but that other tests can fail, or that nothing more is refused."""


def test_a_test_that_is_not_there_is_found_out() -> None:
    assert is_there("tests/security/test_page.py::test_every_row_names_its_test")
    assert is_there("tests/image/test_memory.py")
    assert not is_there("tests/security/test_page.py::test_of_another_name")
    assert not is_there("tests/security/test_none.py")
    assert not is_there("tests/container/test_runtime.py::TestStarted::test_none")
