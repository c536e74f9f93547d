"""The layers that tests of a mount use unless they have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import make_directories, mount_types, scratch, umount


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Layers with one lower file, and a mountpoint; whatever a failed test leaves mounted is taken away."""
    with scratch(tmp_path) as where:
        make_directories(where)
        (where / "lower" / "file").write_text("lower\n")
        try:
            yield where
        finally:
            while any(kind.startswith("fuse") for kind in mount_types(where / "merged")):
                umount(where / "merged", lazy=True)


@pytest.fixture(autouse=True)
def over_every_transport(transport: str) -> None:
    """Every test here runs over each."""
