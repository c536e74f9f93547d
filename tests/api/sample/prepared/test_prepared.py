"""The same tree for both, and neither sees what the other did."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize("who", ["one", "other"])
def test_once(union: Path, who: str) -> None:
    assert (union / "times").read_text() == "once\n"
    (union / "times").write_text(who)
    assert sorted(path.name for path in union.iterdir()) == ["times"]
    (union / who).touch()
