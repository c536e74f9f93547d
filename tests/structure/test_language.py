"""Code and documents name the caller, the kernel, a daemon or a lookup, and no program as a person."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = ["anybody", "anyone", "everybody", "everyone", "heed", "heeded", "heeds", "nobody", "somebody"]
WORDS += ["someone", "told", "whoever", "whom"]
PERSONS = re.compile(rf"(?<!-u )(?<!`)\b({'|'.join(WORDS)})\b", re.IGNORECASE)
"""A user's name is none: `nobody` as code, or after -u."""

TEXTS = ["*.md", "docs/*.md", "unionfs/**/*.py"]


def persons(text: str) -> list[str]:
    """The lines with such a word, numbered."""
    return [f"{at}: {line.strip()}" for at, line in enumerate(text.splitlines(), 1) if PERSONS.search(line)]


@pytest.mark.parametrize("pattern", TEXTS)
def test_no_program_is_a_person(pattern: str) -> None:
    paths = sorted(ROOT.glob(pattern))
    assert paths
    found = {str(path.relative_to(ROOT)): lines for path in paths if (lines := persons(path.read_text()))}
    assert found == {}


def test_such_a_word_is_found_and_a_name_of_a_user_is_not() -> None:
    assert persons("The daemon is told.\nrun -u nobody, as `nobody`\nWhoever asks") == [
        "1: The daemon is told.",
        "3: Whoever asks",
    ]
