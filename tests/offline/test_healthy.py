"""A check finds nothing in what healthy unions leave: 200 random ones, used by the core and by the kernel.

That the same check is not blind is what `test_defects.py` shows; here one defect is planted into each random
union afterwards, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.offline.checking import check, repair
from tests.offline.healthy_unions import OPTIONS, OWN_OPTIONS, made, use_by_core, use_by_kernel
from tests.support.mounts import needs_overlayfs, scratch
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Caller

pytestmark = needs_overlayfs

UNIONS = 15
USER = 12345


@pytest.fixture
def other() -> Iterator[Path]:
    """A directory on another filesystem than the stacks."""
    with scratch() as where:
        yield where


def _assert_healthy(config: UnionConfig, where: str) -> None:
    found = check(config, watch=False)
    assert not found, f"{where}: {found}"


def _assert_not_blind(config: UnionConfig) -> None:
    """A whiteout over nothing, somewhere in upper, is found and mended."""
    assert config.upper is not None
    directories = [
        path for path in sorted(Path(config.upper).rglob("*")) if stat.S_ISDIR(path.lstat().st_mode)
    ]
    place = directories[len(directories) // 2] if directories else Path(config.upper)
    planted = place / "not in any layer"
    os.mknod(planted, stat.S_IFCHR, os.makedev(0, 0))
    assert [each.path for each in check(config)] == [os.fsencode(planted)]
    assert [each.done is not None for each in repair(config)] == [True]
    assert not check(config)


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_used_by_the_core(base: Path, other: Path, name: str) -> None:
    for seed in range(UNIONS):
        with made(seed, base, other, OWN_OPTIONS[name]) as (stage, config):
            done = use_by_core(stage.case, config)
            assert done > 5, "nothing was done"
            _assert_healthy(config, f"seed {seed}")
            if seed % 5 == 0:
                _assert_not_blind(config)


@pytest.mark.parametrize("name", OPTIONS)
def test_used_by_the_kernel(base: Path, other: Path, name: str) -> None:
    for seed in range(100, 100 + UNIONS):
        with made(seed, base, other, OPTIONS[name]) as (stage, config):
            done = use_by_kernel(stage, config)
            assert done > 5, "nothing was done"
            _assert_healthy(config, f"seed {seed}")
            if seed % 5 == 0:
                _assert_not_blind(config)


def test_used_by_an_ordinary_user(base: Path, other: Path) -> None:
    options = OPTIONS["userxattr"]
    done = 0
    for seed in range(200, 206):
        with made(seed, base, other, options) as (stage, config):
            for path in (stage.union.upper, stage.union.work):
                os.chown(path, USER, USER)
            for path in [*stage.union.upper.parents, *stage.union.lowers[-1].parents, *other.parents, other]:
                path.chmod(path.stat().st_mode | 0o011)
            for path in stage.union.upper.rglob("*"):
                os.chown(path, USER, USER, follow_symlinks=False)
            os.seteuid(USER)
            try:
                done += use_by_core(stage.case, config, Caller(USER, os.getegid(), 0, 0o022))
            finally:
                os.seteuid(0)
            found = check(config, user=USER)
            # Lowers hold directories that only root may list.
            assert not [each for each in found if each.counts], found
            assert all(b"/layer" in each.path for each in found), found
    assert done > 15, "nothing was done"
