"""What a run collected, before it chose: each test's node id, markers and place in the tables of tiers.

As a plugin (`python -m pytest --collect-only -p tests.support.collected`) it writes that into a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pytest

from tests import tiers
from tests.support.mounts import REPOSITORY
from tests.support.pages import Place

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
    shell_blocks: list[tuple[str, str, int]]
    """Of the documentation, which it takes."""


EVERYTHING = pytest.StashKey[list[Collected]]()
"""All that this run has collected, in its configuration."""


def describe(items: Sequence[pytest.Item]) -> list[Collected]:
    return [
        Collected(
            node=item.nodeid,
            markers=sorted({mark.name for mark in item.iter_markers()}),
            named=tiers.matches(item),
            over=tiers.over(item),
            shell_blocks=_shell_blocks(item),
        )
        for item in items
    ]


def run_tests(directory: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *words],
        cwd=directory,
        env={**env, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def suite(config: pytest.Config, listing: Path) -> list[Collected]:
    """Every test of the suite; collected once more, by way of a file, if this run looks at a part only."""
    if whole(config):
        return config.stash[EVERYTHING]
    done = run_tests(REPOSITORY, "--collect-only", "-qq", "-p", __name__, **{VARIABLE: str(listing)})
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[Collected] = json.loads(listing.read_text())
    return found


def _shell_blocks(item: pytest.Item) -> list[tuple[str, str, int]]:
    marker = item.get_closest_marker("shell_block")
    taken = "shell_block" in getattr(item, "fixturenames", ())
    return [Place(*marker.args)] if marker is not None and taken else []


def whole(config: pytest.Config) -> bool:
    """Whether this run has looked at every file."""
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and EVERYTHING in config.stash


def pytest_collection_finish(session: pytest.Session) -> None:
    if VARIABLE in os.environ:
        Path(os.environ[VARIABLE]).write_text(json.dumps(session.config.stash[EVERYTHING]))
