"""Fixtures of the API's tests: a prepared tree, and a place that is empty again after each test."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.installed import Installed, install
from tests.api.rig import PATIENCE
from tests.support.mounts import mount_types, scratch, umount

# A project of its own, which runs its own tests.
collect_ignore = ["sample"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary directories are made: nothing may be left there."""
    with scratch(tmp_path) as where:
        monkeypatch.setenv("TMPDIR", str(where))
        monkeypatch.setattr("tempfile.tempdir", None)
        try:
            yield where
            deadline = time.monotonic() + PATIENCE
            while os.listdir(where) and time.monotonic() < deadline:
                time.sleep(0.02)  # a daemon clears up a moment after the process that it was for
            assert os.listdir(where) == [], "temporary directories were left"
        finally:
            for path in where.glob("*/merged"):
                while mount_types(path):
                    umount(path, lazy=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A prepared tree."""
    top = tmp_path / "tree"
    (top / "etc").mkdir(parents=True)
    (top / "etc/motd").write_text("prepared\n")
    (top / "data").write_bytes(b"x" * 1000)
    return top


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """pyunionfs from a wheel."""
    return install(tmp_path_factory.mktemp("installed"))
