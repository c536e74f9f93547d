"""A fresh stack for each test, and the process as it was afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.conftest import _process_as_it_was  # noqa: F401  (for all tests here)
from tests.overlay.rig import Stack
from tests.support.mounts import scratch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: trusted xattrs and devices 0/0"))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Empty layers, on a filesystem that can hold them."""
    with scratch(tmp_path) as where:
        yield Stack(where)
