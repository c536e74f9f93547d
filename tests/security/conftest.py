"""Layers for unions that are opened without a mount, and the process as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.conftest import _process_as_it_was as _process_as_it_was
from tests.overlay.rig import Stack
from tests.support.mounts import scratch


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    """A directory whose filesystem can hold layers."""
    with scratch(tmp_path) as where:
        yield where


@pytest.fixture
def stack(space: Path) -> Stack:
    return Stack(space)
