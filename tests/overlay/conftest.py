"""A fresh stack for each test, and the process as it was afterwards.

Opening a union as root changes the process's securebits and making objects changes its umask; neither may
reach other tests. Every test must leave no descriptor open.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, descriptors
from tests.support.mounts import scratch

_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28

_libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: trusted xattrs and devices 0/0"))


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    umask = os.umask(0o022)
    bits = _libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    before = descriptors()
    yield
    left = descriptors()
    os.umask(umask)
    _libc.prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0)
    assert left == before, "descriptors leaked"


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A directory whose filesystem can hold layers."""
    with scratch(tmp_path) as where:
        yield where


@pytest.fixture
def stack(base: Path) -> Stack:
    return Stack(base)
