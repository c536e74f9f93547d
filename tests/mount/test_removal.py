"""What is removed or renamed is not copied for its times' sake, which fuse.ko writes back by itself."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, Side, side
from tests.mount.rig import statuses
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport
from unionfs.linux.syscalls import syncfs

pytestmark = [needs_root, needs_fuse, one_transport]


def populate(lower: Path, upper: Path) -> None:
    for name in ("file", "first", "other"):
        (lower / name).write_bytes(b"data" * 4096)
    for number in range(2, 5):
        os.link(lower / "first", lower / f"name {number}")


def settle(mounted: Side) -> dict[str, int]:
    """Have everything written back that the kernel keeps; the union's counters."""
    fd = os.open(mounted.merged, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
    (status,) = statuses(mounted.merged)
    counters: dict[str, int] = status["union"]
    return counters


def is_whiteout(path: Path) -> bool:
    return stat.S_ISCHR(path.lstat().st_mode)


@pytest.mark.parametrize("way", WAYS)
def test_removing_lower_files_copies_nothing(way: str) -> None:
    with side(way, populate) as mounted:
        merged, upper = mounted.merged, mounted.upper
        (merged / "file").unlink()
        held = os.open(merged / "other", os.O_RDONLY)
        (merged / "other").unlink()
        (merged / "name 2").unlink()
        (merged / "name 3").stat()
        assert settle(mounted)["copy_ups"] == 0
        assert os.pread(held, 4, 0) == b"data"
        os.close(held)
        assert settle(mounted)["copy_ups"] == 0
        assert sorted(os.listdir(upper)) == ["file", "name 2", "other"]
        assert all(is_whiteout(upper / name) for name in os.listdir(upper))
        assert (merged / "first").read_bytes() == b"data" * 4096


@pytest.mark.parametrize("way", WAYS)
def test_a_new_time_is_kept_all_the_same(way: str) -> None:
    with side(way, populate) as mounted:
        path = mounted.merged / "file"
        before = path.stat()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        settle(mounted)
        assert (
            (mounted.upper / "file").stat().st_mtime_ns == path.stat().st_mtime_ns == before.st_mtime_ns + 1
        )


SPECIAL = {"fifo": (stat.S_IFIFO, 0), "null": (stat.S_IFCHR, os.makedev(1, 3))}
CHANGES: dict[str, Callable[[int], object]] = {
    "fchmod": lambda fd: os.fchmod(fd, 0o600),
    "fchown": lambda fd: os.fchown(fd, 7, 7),
    "futimens": lambda fd: os.utime(fd, (5, 5)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_what_is_removed_stays_removed_when_it_is_changed(way: str, layer: str) -> None:
    """Kernel overlayfs copies a FIFO or device of a lower up to the name that it had (docs/semantics.md)."""

    def specials(lower: Path, upper: Path) -> None:
        for (kind, (mode, rdev)), how in itertools.product(SPECIAL.items(), CHANGES):
            os.mknod((lower if layer == "lower" else upper) / f"{kind} {how}", mode | 0o666, rdev)

    with side(way, specials) as mounted:
        for path in sorted(mounted.merged.iterdir()):
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            path.unlink()
            CHANGES[path.name.split()[1]](fd)
            after = os.fstat(fd)
            assert after.st_nlink == 0
            assert (after.st_mode & 0o777 == 0o600, after.st_uid == 7, after.st_mtime == 5).count(True) == 1
            assert not os.path.lexists(path)
            os.close(fd)
        assert os.listdir(mounted.merged) == []
