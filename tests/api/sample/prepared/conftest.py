"""A tree that is prepared once a run, for all tests in this directory."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def union_lowers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    tree = tmp_path_factory.mktemp("prepared")
    (tree / "times").write_text("once\n")
    return [tree]


@pytest.fixture(scope="session")
def union_options() -> dict[str, object]:
    return {"nosuid": True}
