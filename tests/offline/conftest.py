"""A fresh stack for each test, and the process as it was afterwards: no descriptor open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.conftest import _process_as_it_was, base, memory_ext4
from tests.overlay.rig import Stack, descriptors, leaked

__all__ = ["_process_as_it_was", "base", "memory_ext4"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: trusted xattrs and devices 0/0"))


@pytest.fixture
def stack(base: Path) -> Iterator[Stack]:
    """Empty layers, on a filesystem that can hold them."""
    before = descriptors()
    yield Stack(base)
    assert leaked(before) == [], "descriptors leaked"
