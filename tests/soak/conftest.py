"""Lowers of a soak run, and the tree that a union of them shows."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from testing.bench.layers import copy_stack
from testing.soak import ground
from testing.soak.ground import Ground
from testing.soak.jobs import Place


@pytest.fixture(scope="session")
def soak_ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Lowers for two clients. No test may write to them."""
    return ground.make(tmp_path_factory.mktemp("ground"), "test", clients=2, batches=3)


@pytest.fixture
def place(soak_ground: Ground, tmp_path: Path) -> Place:
    """A plain directory with all that the lowers hold, where a client works."""
    merged, scratch = tmp_path / "merged", tmp_path / "scratch"
    copy_stack(soak_ground.stack(steady=True), merged)
    scratch.mkdir()
    numbers: Callable[[], int] = count().__next__
    return Place(merged, 1, soak_ground, scratch, random.Random("test"), numbers, soak_ground.batches[True])
