"""Mounts for tests: those of `testing`, and the marks of tests that need them."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from testing.mounts import (
    REPOSITORY,
    Daemon,
    command,
    environment,
    join_layers,
    loop_fs,
    make_directories,
    mount,
    mount_types,
    mounted,
    overlayfs,
    private_mounts,
    pyunionfs,
    scratch,
    status_pid,
    supports_layers,
    umount,
)

__all__ = [
    "REPOSITORY",
    "Daemon",
    "command",
    "environment",
    "join_layers",
    "loop_fs",
    "make_directories",
    "mount",
    "mount_types",
    "mounted",
    "needs_fuse",
    "needs_overlayfs",
    "needs_root",
    "overlayfs",
    "private_mounts",
    "pyunionfs",
    "scratch",
    "status_pid",
    "supports_layers",
    "umount",
]


@cache
def _overlayfs_works() -> bool:
    if os.geteuid() != 0:
        return False
    base = Path(tempfile.mkdtemp(prefix="pyunionfs-probe-"))
    try:
        for name in ("lower", "mnt"):
            (base / name).mkdir()
        with loop_fs("tmpfs", directory=base) as where:
            (where / "upper").mkdir()
            (where / "work").mkdir()
            with overlayfs([base / "lower"], where / "upper", where / "work", base / "mnt"):
                return True
    except OSError:
        return False
    finally:
        shutil.rmtree(base)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: trusted xattrs, devices, mount(2)")
needs_fuse = pytest.mark.needs_fuse
"""Of every test that mounts a union: it is skipped without /dev/fuse, and not in the tier without mounts."""
needs_overlayfs = pytest.mark.skipif(
    not _overlayfs_works(), reason="needs kernel overlayfs, and root to mount it"
)
