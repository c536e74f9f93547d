"""What `status` tells of a real mount while it is at slow work, and of the space that it has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import eventually, gated, mount, run, statuses
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]

MIB = 1 << 20
SIZE = 40 * MIB
CHUNK = 16 * MIB

GATE = """
import os, time
from unionfs.overlay import copy_data
def waits(*arguments, real=os.copy_file_range):
    while arguments[3] >= {chunk} and not os.path.exists({gate!r}):
        time.sleep(0.01)
    return real(*arguments)
copy_data.os.copy_file_range = waits
copy_data.FICLONE = 0
"""
"""The first piece of a file is copied; the next waits for the file `gate`."""


@pytest.fixture
def merged(base: Path) -> Iterator[Path]:
    (base / "lower/var").mkdir()
    with (base / "lower/var/big").open("wb") as big:
        for _ in range(SIZE // MIB):
            big.write(b"b" * MIB)
    patch = GATE.format(chunk=CHUNK, gate=str(base / "gate"))
    with gated(base, patch) as merged:
        yield merged


def test_a_large_copy_up_under_way(base: Path, merged: Path) -> None:
    assert statuses(merged)[0]["under_way"] == []
    writer = subprocess.Popen(
        ["dd", "of=big", "conv=notrunc", "bs=1", "status=none"], cwd=merged / "var", stdin=subprocess.PIPE
    )
    try:
        assert writer.stdin is not None
        writer.stdin.write(b"X")
        writer.stdin.close()
        assert eventually(lambda: [work["done"] for work in statuses(merged)[0]["under_way"]] == [CHUNK])
        [work] = statuses(merged)[0]["under_way"]
        assert 0 <= work.pop("seconds") < 60
        assert work == {
            "work": "copy_up",
            "path": "/var/big",
            "step": "copying",
            "done": CHUNK,
            "total": SIZE,
        }
        says = "copying up /var/big: 16.0 MiB of 40.0 MiB (40 %), "
        assert f"\n{merged}: {says}" in run("status").stdout
        assert f"\n  progress  {says}" in run("status", merged).stdout
        assert writer.poll() is None
        assert not (base / "upper/var/big").exists()
        (base / "gate").touch()
        assert writer.wait(30) == 0
    finally:
        (base / "gate").touch()
        writer.wait(30)
    assert eventually(lambda: statuses(merged)[0]["under_way"] == [])
    assert (base / "upper/var/big").read_bytes() == b"X" + b"b" * (SIZE - 1)


def test_the_space_on_uppers_filesystem(base: Path) -> None:
    mount(base)
    there = os.statvfs(base / "upper")
    space = statuses(base / "merged")[0]["upper_space"]
    assert space["size"] == there.f_blocks * there.f_frsize
    assert 0 < space["free"] <= space["size"]
    run("umount", base / "merged")
    run("mount", f"{base}/lower:{base}/upper", base / "merged")
    assert statuses(base / "merged")[0]["upper_space"] is None
    run("umount", base / "merged")
