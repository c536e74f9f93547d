"""noatime, strictatime, relatime and nodiratime of the union's mount, beside kernel overlayfs."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.mount.data_rig import Side, side
from tests.support.mounts import loop_fs, mount, mounted, needs_fuse, needs_overlayfs, needs_root, umount
from tests.support.transports import one_transport
from unionfs.control import status_socket
from unionfs.daemon.access_times import AccessTimes
from unionfs.linux import mount as mounts
from unionfs.linux import syscalls

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]

OLD = 1_000_000_000
"""Before the change of an object: relatime follows."""
AHEAD = int(time.time()) + 100_000
"""After it: relatime leaves it alone, strictatime does not."""

FLAGS = {
    "": mounts.MS_RELATIME,
    "relatime": mounts.MS_RELATIME,
    "noatime": mounts.MS_NOATIME,
    "strictatime": mounts.MS_STRICTATIME,
    "nodiratime": mounts.MS_NODIRATIME,
}
WAYS = ("default", "passthrough", "cached", "pyfuse3")


def populate(lower: Path, upper: Path) -> None:
    for directory, name in ((lower, "lower"), (lower, "copied"), (upper, "upper"), (upper, "linked")):
        (directory / name).write_bytes(b"data")
    (upper / "directory").mkdir()
    (upper / "directory" / "f").touch()


def remount(merged: Path, option: str) -> None:
    """By mount(2), which tells no daemon."""
    mount("none", merged, "none", mounts.MS_REMOUNT | FLAGS[option])


def observed(union: Side) -> dict[tuple[str, int], bool]:
    """Whether reading sets the access time, by the object and what that was before."""
    merged = union.merged
    if not (merged / "new").exists():
        (merged / "new").write_bytes(b"data")
        with open(merged / "copied", "ab"):
            pass
    found = {}
    for name in ("new", "copied", "upper", "lower", "directory"):
        real = union.upper / name
        if name == "lower":
            real = union.lower / name
        for before in (OLD, AHEAD):
            # A directory that was listed is told from memory until it changes: listed anew, it is read.
            os.utime(real if name == "lower" else merged / name, (before, OLD))
            if name == "directory":
                (merged / name / f"new{before}{len(os.listdir(real))}").touch()
                os.listdir(merged / name)
            else:
                fd = os.open(merged / name, os.O_RDONLY)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    assert os.pread(fd, 10, 0) == b"data"
                finally:
                    os.close(fd)
            found[name, before] = real.stat().st_atime != before
    return found


def settled(union: Side) -> None:
    """Return when the daemon has seen the flags: it answers for that."""
    entry = mounts.mount_at(str(union.merged))
    assert entry is not None
    assert [each.status is not None for each in status_socket.query_mount(entry)] == [True]


@pytest.fixture(scope="module")
def right() -> dict[str, dict[tuple[str, int], bool]]:
    """What overlayfs does, by option."""
    found = {}
    with side("overlayfs", populate) as kernel:
        for option in FLAGS:
            remount(kernel.merged, option)
            found[option] = observed(kernel)
    assert [found[option]["upper", OLD] for option in FLAGS] == [True, True, False, True, True]
    return found


@pytest.mark.parametrize("option", FLAGS)
def test_reading_sets_what_it_sets_on_overlayfs(option: str, right: Mapping[str, object]) -> None:
    with side("default", populate, [option] if option else []) as union:
        assert observed(union) == right[option]


@pytest.mark.parametrize("way", WAYS)
def test_a_remount_counts_also_for_what_is_open(way: str, right: Mapping[str, object]) -> None:
    with side(way, populate) as union:
        fd = os.open(union.merged / "upper", os.O_RDONLY)
        try:
            for option in ("noatime", "strictatime", "relatime", "nodiratime"):
                remount(union.merged, option)
                settled(union)
                assert observed(union) == right[option], option
                os.utime(union.merged / "upper", (AHEAD, OLD))
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(fd, 10, 0) == b"data"
                changed = (union.upper / "upper").stat().st_atime != AHEAD
                assert changed == (option == "strictatime"), option
        finally:
            os.close(fd)


def test_the_command_remounts_to_relatime_and_is_followed_when_it_returns() -> None:
    """mount(2) keeps how access times are set where it is not told."""
    with side("default", populate, ["noatime"]) as union:
        for options, sets in (("rw", True), ("noatime", False), ("relatime", True), ("nodiratime", True)):
            program = "from unionfs.cli.mount_helper import command; command()"
            words = ["x", str(union.merged), "-o", f"remount,{options}"]
            subprocess.run([sys.executable, "-c", program, *words], check=True)
            assert observed(union)["upper", OLD] == sets, options


def test_the_flags_of_uppers_own_mount_do_not_count() -> None:
    """ovl_get_upper() clears them on its private mount."""
    with loop_fs("tmpfs") as space:
        mount("none", space, "none", mounts.MS_REMOUNT | mounts.MS_NOATIME)
        with side("default", populate, directory=space) as union:
            found = observed(union)
            assert found["upper", OLD]
            assert not found["upper", AHEAD]
        entry = mounts.mount_at(str(space))
        assert entry is not None
        assert "noatime" in entry.options


def clone_of(directory: Path) -> int:
    fd = os.open(directory, os.O_PATH)
    try:
        return syscalls.clone_tree(fd, read_only=False)
    finally:
        os.close(fd)


def test_a_remount_that_tells_nobody_wakes_the_daemon(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path):
        entry = mounts.mount_at(str(tmp_path))
        assert entry is not None
        clone = clone_of(tmp_path)
        (tmp_path / "f").write_bytes(b"data")
        watch = AccessTimes(clone, entry)
        try:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            poll.poll(0)
            for option, sets in (("noatime", False), ("strictatime", True)):
                remount(tmp_path, option)
                assert poll.poll(10_000)
                assert not poll.poll(0), "each change is told once"
                watch.refresh()
                os.utime(tmp_path / "f", (AHEAD, AHEAD))
                fd = os.open("f", os.O_RDONLY, dir_fd=clone)
                os.read(fd, 10)
                os.close(fd)
                assert ((tmp_path / "f").stat().st_atime != AHEAD) == sets
        finally:
            watch.close()
            os.close(clone)


def test_what_is_mounted_in_upper_later_is_not_seen_through_its_clone(tmp_path: Path) -> None:
    """Not even where the mount is shared, whose copies are its peers."""
    with mounted("tmpfs", tmp_path):
        (tmp_path / "below").mkdir()
        mount("none", tmp_path, "", 1 << 20)  # MS_SHARED
        clone = clone_of(tmp_path)
        mount("tmpfs", tmp_path / "below", "tmpfs")
        try:
            (tmp_path / "below" / "hidden").touch()
            fd = os.open("below", os.O_RDONLY, dir_fd=clone)
            assert os.listdir(fd) == []
            os.close(fd)
        finally:
            umount(tmp_path / "below")
            os.close(clone)
