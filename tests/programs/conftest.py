"""Fixtures for real programs: layers on a filesystem that can hold them, a mount, a Debian tree.

Every fixture takes away what it made; the Debian tree stays in its cache, outside the checkout.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.programs import debian
from tests.support.mounts import join_layers, overlayfs, pyunionfs, scratch, umount

Union = Callable[..., AbstractContextManager[Path]]


@contextmanager
def fuse_overlayfs(lowers: Sequence[Path], upper: Path, work: Path, merged: Path) -> Iterator[None]:
    """The other overlay program in FUSE, for comparison only."""
    layers = f"lowerdir={join_layers(lowers)},upperdir={upper},workdir={work}"
    subprocess.run(["fuse-overlayfs", "-o", f"{layers},allow_other,suid,dev", merged], check=True)
    try:
        yield
    finally:
        umount(merged)


@pytest.fixture
def space() -> Iterator[Path]:
    """A directory for layers, whose filesystem holds whiteouts and trusted xattrs."""
    with scratch() as where:
        yield where


@pytest.fixture
def union(request: pytest.FixtureRequest, space: Path) -> Union:
    """`with union([lower, ...]) as merged:`, with upper and work in `space`; lowers leftmost on top."""

    @contextmanager
    def mount(lowers: Sequence[Path], *, options: Sequence[str] = ()) -> Iterator[Path]:
        upper, work, merged = (space / name for name in ("upper", "work", "merged"))
        for directory in (upper, work, merged):
            directory.mkdir(exist_ok=True)
        subject = request.config.getoption("--on")
        options = [*options, *filter(None, request.config.getoption("--mount-options").split(","))]
        if subject == "overlayfs":
            with overlayfs(lowers, upper, work, merged, options=["redirect_dir=on", *options]):
                yield merged
        elif subject == "fuse-overlayfs":
            with fuse_overlayfs(lowers, upper, work, merged):
                yield merged
        else:
            with pyunionfs(lowers, upper, work, merged, options=options):
                yield merged

    return mount


@pytest.fixture(scope="session")
def debian_tree() -> Path:
    """A root filesystem of this machine's release, as a lower layer. Nothing may write to it."""
    try:
        return debian.tree()
    except debian.Unavailable as error:
        pytest.skip(f"no Debian tree: {error}")


@pytest.fixture(autouse=True)
def over_every_transport(transport: str) -> None:
    """Every test here runs over each."""
