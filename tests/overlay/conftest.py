"""A fresh stack for each test, and the process as it was afterwards.

Opening a union as root changes the process's securebits and making objects changes its umask; neither may
reach other tests. Every test must leave no descriptor open.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, descriptors, leaked
from tests.support.mounts import loop_fs, scratch

_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_IMAGE_SIZE = 512 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: trusted xattrs and devices 0/0"))


def _numbers() -> set[int]:
    """The open descriptors, that of this very listing left out."""
    return {
        int(number) for number in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}")
    }


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    umask = os.umask(0o022)
    bits = _libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    before, numbers = descriptors(), _numbers()
    yield
    left = leaked(before)
    if left:
        # The next tests should not suffer, and the filesystem must be unmounted in the end.
        for number in _numbers() - numbers:
            os.close(number)
    os.umask(umask)
    _libc.prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0)
    assert left == [], "descriptors leaked"


@pytest.fixture(scope="session")
def memory_ext4() -> Iterator[Path | None]:
    """An ext4 of our own that lies in memory, or None: a busy disk makes every sync of a test wait."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 2 * _IMAGE_SIZE:
        yield None
        return
    with contextlib.ExitStack() as open_image:
        try:
            where: Path | None = open_image.enter_context(loop_fs("ext4", _IMAGE_SIZE, directory=memory))
        except (OSError, subprocess.CalledProcessError):
            where = None  # no loop devices here, or no mkfs
        yield where


@pytest.fixture
def base(tmp_path: Path, memory_ext4: Path | None) -> Iterator[Path]:
    """A directory whose filesystem can hold layers; gone afterwards."""
    with scratch(memory_ext4 or tmp_path) as where:
        yield where


@pytest.fixture
def stack(base: Path) -> Stack:
    return Stack(base)


@pytest.fixture(params=[None, 1.0], ids=["static", "timeout"])
def either(base: Path, request: pytest.FixtureRequest) -> Stack:
    """A stack for both ways to look names up: with a cache of each directory, and with `timeout=`."""
    stack = Stack(base)
    stack.timeout = request.param
    return stack
