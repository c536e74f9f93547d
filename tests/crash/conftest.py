"""Every crash test runs over every transport."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def over_every_transport(transport: str) -> None:
    """Every test here runs over each."""
