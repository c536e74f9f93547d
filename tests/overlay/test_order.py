"""A crash of the machine: whatever name it leaves, the file under it is complete (invariant 5).

The disk is a loop device, and the crash a copy of its image while it is mounted: what was written is in it,
what waited in memory is not. An fsync of a stranger's brings the name to disk before the copy is taken.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.overlay.rig import Stack, View
from tests.support.mounts import loop_fs, umount
from unionfs.linux import syscalls
from unionfs.linux.syscalls import FICLONE
from unionfs.overlay import order

NAMES = [f"f{number}" for number in range(20)]
SIZE = 20_000
KINDS = ["ext4", "xfs", "btrfs"]


@contextmanager
def memory(kind: str) -> Iterator[Path]:
    """A directory in memory for images of disks: a real disk takes long."""
    if kind != "tmpfs" and shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs mkfs.{kind}")
    shared = Path("/dev/shm")
    if not shared.is_dir() or shutil.disk_usage(shared).free < 2 << 30:
        pytest.skip("needs 2 GiB of /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared) as made:
        yield Path(made)


@contextmanager
def mounted(image: Path, kind: str) -> Iterator[Path]:
    where = image.with_name("mnt")
    where.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", "loop", str(image), str(where)], check=True)
    try:
        yield where
    finally:
        umount(where)
        where.rmdir()


def copy_up(view: View, how: str) -> None:
    for name in NAMES:
        if how == "append":
            view.write(name, b"!", offset=SIZE)
        else:
            view.chmod(name, 0o600)


def sync_others(where: Path, upper: Path) -> None:
    """What brings the names to disk, on each filesystem, without anybody's asking for the files."""
    (where / "other").write_bytes(b"other")
    for path in (where / "other", upper):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def crash(kind: str, how: str, plant: Callable[[View], None]) -> list[int]:
    """Copy up, crash, and say how many files came back whole, and how many torn."""
    data = os.urandom(SIZE)
    with memory(kind) as room:
        with loop_fs(kind, directory=room) as where:
            (where / "layers").mkdir()
            stack = Stack(where / "layers").layers({})
            for name in NAMES:
                (stack.lowers[0] / name).write_bytes(data)
            with stack.open() as view:
                os.sync()
                plant(view)
                copy_up(view, how)
                sync_others(where, stack.upper)
                shutil.copyfile(where.parent / "image", room / "crashed")
        with mounted(room / "crashed", kind) as where:
            found = [where / "layers/upper" / name for name in NAMES]
            whole = [path.read_bytes()[:SIZE] == data for path in found if path.exists()]
    return [whole.count(True), whole.count(False)]


@pytest.fixture
def unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if source and target lay on different filesystems: data is read and written."""

    true_ioctl = fcntl.ioctl

    def ioctl(fd: int, request: int, *arguments: Any) -> Any:
        return cannot() if request == FICLONE else true_ioctl(fd, request, *arguments)

    def cannot(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(os, "copy_file_range", cannot)


@pytest.mark.parametrize("how", ["chmod", "append"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_name_without_its_data(kind: str, how: str) -> None:
    assert crash(kind, how, lambda view: None) == [len(NAMES), 0]


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_without_copied_data(kind: str, request: pytest.FixtureRequest) -> None:
    assert crash(kind, "chmod", lambda view: request.getfixturevalue("unshared")) == [len(NAMES), 0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_crash_shows_what_was_not_written(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `write_out` the very same crash leaves files without data: the tests above can fail."""

    def plant(view: View) -> None:
        request.getfixturevalue("unshared")
        monkeypatch.setattr(syscalls, "start_writing", lambda fd: None)
        view.union.fs.write_out = lambda fd, shared: None

    _, torn = crash(kind, "chmod", plant)
    assert torn


@pytest.mark.parametrize("kind", [*KINDS, "tmpfs"])
def test_how_it_is_written_out(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """By fsync wherever nothing cheaper is known to keep the order."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with memory(kind) as room, loop_fs(kind, directory=room) as where:
        fd = os.open(where, os.O_RDONLY)
        order.write_out(fd)(fd, False)
        os.close(fd)
    assert bool(synced) == (kind in ("btrfs", "tmpfs"))


def test_an_ext4_without_a_journal_is_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with memory("ext4") as room:
        image = room / "image"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
        with mounted(image, "ext4") as where:
            monkeypatch.setattr(os, "fsync", synced.append)
            fd = os.open(where, os.O_RDONLY)
            order.write_out(fd)(fd, False)
            os.close(fd)
    assert synced
