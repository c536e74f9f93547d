"""What a filesystem asks of its disk is recorded, and the image of each flush has what was synced by then."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.mounts import make_image, mount_image
from testing.powercut.disk import Position, recorded
from testing.powercut.record_log import FLUSH, WRITE, ZERO, Cut, Disk
from tests.support.mounts import needs_fuse, needs_root, umount

pytestmark = [needs_root, needs_fuse, pytest.mark.one_transport]

KINDS = ["ext4", "xfs", "btrfs"]


@pytest.fixture
def room() -> Iterator[Path]:
    """In memory: what is recorded needs no disk of its own to be flushed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pyunionfs-powercut-") as made:
        yield Path(made)


@contextmanager
def on_a_recorded_disk(kind: str, room: Path) -> Iterator[tuple[Path, Position]]:
    make_image(kind, room / "image")
    (room / "mnt").mkdir()
    subprocess.run(["cp", "--sparse=auto", room / "image", room / "before"], check=True)
    with recorded(room / "image", room / "disk", room / "log") as position:
        mount_image(kind, room / "disk", room / "mnt")
        try:
            yield room / "mnt", position
        finally:
            umount(room / "mnt")


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def has(kind: str, room: Path, name: str) -> bytes | None:
    """What an image has under a name."""
    mount_image(kind, room / "cut", room / "mnt")
    try:
        path = room / "mnt" / name
        return path.read_bytes() if path.exists() else None
    finally:
        umount(room / "mnt")


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_of_a_flush_has_what_was_synced(kind: str, room: Path) -> None:
    with on_a_recorded_disk(kind, room) as (where, position):
        before = position.flushes
        write(where / "first", b"1" * 300_000)
        between = position.flushes
        write(where / "second", b"2" * 5)
        after, records = position.flushes, position.records
    assert before < between < after
    disk = Disk(room / "before", room / "log")
    assert len(disk.records) > records
    found = {}
    for flushes in (before, between, after):
        disk.make(Cut(flushes, disk.ends[flushes]), room / "cut")
        found[flushes] = (has(kind, room, "first"), has(kind, room, "second"))
    whole = b"1" * 300_000
    assert found == {before: (None, None), between: (whole, None), after: (whole, b"2" * 5)}


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_was_recorded_makes_the_disk(kind: str, room: Path) -> None:
    with on_a_recorded_disk(kind, room) as (where, _):
        write(where / "gone", b"x" * 3_000_000)
        os.unlink(where / "gone")
        fd = os.open(where, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        subprocess.run(["fstrim", where], check=True)
        write(where / "file", b"y" * 3_000_000)
    disk = Disk(room / "before", room / "log")
    kinds = {record.kind for record in disk.records}
    assert kinds == {WRITE, ZERO, FLUSH}
    # All of them, by a last flush that the log may not have.
    disk.ends.append(len(disk.records))
    disk.make(Cut(disk.flushes, len(disk.records)), room / "cut")
    assert (room / "cut").read_bytes() == (room / "image").read_bytes()


def test_a_disk_is_gone_with_its_context(room: Path) -> None:
    with on_a_recorded_disk("ext4", room):
        pass
    assert (room / "disk").stat().st_size == 0
    for name in ("disk", "mnt"):
        assert str(room / name) not in Path("/proc/self/mountinfo").read_text()
    devices = subprocess.run(
        ["losetup", "--list", "--noheadings"], capture_output=True, text=True, check=True
    )
    assert str(room) not in devices.stdout
