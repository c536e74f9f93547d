"""What a run collected, before it chose: each test's node id, markers and place in the tables of tiers.

As a plugin (`python -m pytest --collect-only -p tests.support.collected`) it writes that into a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pytest

from tests import tiers

VARIABLE = "PYUNIONFS_TEST_COLLECTED"
"""Names the file."""


class Collected(TypedDict):
    """One test."""

    node: str
    markers: list[str]
    named: list[str]
    """What of the tables it matches."""
    over: str | None
    """Its transport."""


EVERYTHING = pytest.StashKey[list[Collected]]()
"""All that this run has collected, in its configuration."""


def describe(items: Sequence[pytest.Item]) -> list[Collected]:
    return [
        Collected(
            node=item.nodeid,
            markers=sorted({mark.name for mark in item.iter_markers()}),
            named=tiers.matches(item),
            over=tiers.over(item),
        )
        for item in items
    ]


def whole(config: pytest.Config) -> bool:
    """Whether this run has looked at every file."""
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and EVERYTHING in config.stash


def pytest_collection_finish(session: pytest.Session) -> None:
    if VARIABLE in os.environ:
        Path(os.environ[VARIABLE]).write_text(json.dumps(session.config.stash[EVERYTHING]))
