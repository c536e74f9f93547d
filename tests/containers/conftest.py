"""What every test of container engines needs; there is nothing to learn from a second transport."""

from __future__ import annotations

import pytest

from tests.containers.engines import missing


@pytest.fixture(autouse=True)
def over_one_transport(transport: str) -> None:
    """Each test is marked one_transport; an engine hands no variable on to the mount program anyway."""


@pytest.fixture
def engines() -> None:
    """Skips where an engine or what it needs is missing."""
    program = missing()
    if program is not None:
        pytest.skip(f"no {program} on this machine (scripts/test-programs.sh installs it)")
