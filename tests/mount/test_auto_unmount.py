"""`auto_unmount`: the mount goes when its daemon is killed, and nothing else goes, then or later."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing import processes
from tests.mount.rig import eventually, foreground, gone, mount, run
from tests.support.mounts import mount_types, needs_fuse, needs_root, umount
from unionfs.linux import mount_calls

pytestmark = [needs_root, needs_fuse]

AUTO = ("-o", "auto_unmount")


def guard_of(daemon: int) -> int:
    """The child that waits for the daemon's death."""
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    [guard] = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "pyunionfs-guard\n"]
    return int(guard)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: gone(pid))


def test_a_killed_daemon_leaves_no_mount(base: Path) -> None:
    daemon = mount(base, *AUTO)
    guard = guard_of(daemon)
    (base / "merged" / "new").write_text("new")
    kill(daemon)
    assert eventually(lambda: mount_types(base / "merged") == [])
    assert eventually(lambda: gone(guard))
    assert os.listdir(base / "merged") == []
    mount(base)
    assert (base / "merged" / "new").read_text() == "new"
    run("umount", base / "merged")


def test_without_the_option_it_stays(base: Path) -> None:
    daemon = mount(base)
    with pytest.raises(ValueError, match="not enough values"):
        guard_of(daemon)
    kill(daemon)
    time.sleep(1)
    assert mount_types(base / "merged") == ["fuse.pyunionfs"]
    run("umount", base / "merged")


def test_in_the_foreground_and_with_files_open(base: Path) -> None:
    daemon = foreground(base, *AUTO)
    fd = os.open(base / "merged" / "file", os.O_RDONLY)
    daemon.kill()
    daemon.wait()
    assert eventually(lambda: mount_types(base / "merged") == [])
    with contextlib.suppress(OSError):  # nobody is there any more to hear of it
        os.close(fd)
    assert daemon.stderr is not None
    # Nobody else has our end of the pipe: this would wait for it.
    daemon.stderr.read()
    daemon.stderr.close()


def test_every_place_where_the_mount_is(base: Path) -> None:
    daemon = mount(base, *AUTO)
    (base / "second").mkdir()
    subprocess.run(["mount", "--bind", base / "merged", base / "second"], check=True)
    try:
        kill(daemon)
        assert eventually(lambda: mount_types(base / "merged") + mount_types(base / "second") == [])
    finally:
        while mount_types(base / "second"):
            umount(base / "second", lazy=True)


def test_what_covers_it_stays(base: Path) -> None:
    daemon = mount(base, *AUTO)
    guard = guard_of(daemon)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", base / "merged"], check=True)
    try:
        kill(daemon)
        assert eventually(lambda: gone(guard))
        assert mount_types(base / "merged") == ["fuse.pyunionfs", "tmpfs"]
    finally:
        umount(base / "merged")
    run("umount", base / "merged")


def test_the_guard_holds_nothing_and_heeds_no_terminal(base: Path) -> None:
    daemon = mount(base, *AUTO)
    guard = guard_of(daemon)
    links = {os.readlink(f"/proc/{guard}/fd/{fd}") for fd in os.listdir(f"/proc/{guard}/fd")}
    assert links in ({"/dev/null", "anon_inode:[pidfd]"}, {"/dev/null", f"pidfd:[{daemon}]"})
    assert (os.readlink(f"/proc/{guard}/cwd"), os.getsid(guard)) == ("/", guard)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(guard, number)
    time.sleep(0.3)
    assert not gone(guard)
    run("umount", base / "merged")
    assert gone(daemon)
    assert gone(guard)


@pytest.mark.parametrize("way", ["umount", "SIGTERM", "umount(2)"])
def test_after_a_good_end_the_next_mount_is_left_alone(base: Path, way: str) -> None:
    first = mount(base, *AUTO)
    guard = guard_of(first)
    if way == "umount":
        run("umount", base / "merged")
    elif way == "SIGTERM":
        os.kill(first, signal.SIGTERM)
    else:
        umount(base / "merged")
    assert eventually(lambda: gone(first))
    assert gone(guard)
    mount(base)
    time.sleep(0.5)
    assert (base / "merged" / "file").read_text() == "lower\n"
    run("umount", base / "merged")


@contextlib.contextmanager
def next_number(base: Path, device: int) -> Iterator[None]:
    """Have the kernel give this number to the next mount: the lowest that is free.

    Other processes mount at the same time, and may have it for a while.
    """
    with contextlib.ExitStack() as lower_numbers:
        deadline = time.monotonic() + 60
        while True:
            place = base / "tmpfs"
            place.mkdir(exist_ok=True)
            mount_calls.mount("none", str(place), "tmpfs", 0, "")
            number = os.stat(place).st_dev
            if number < device:
                lower_numbers.callback(umount, place)  # they lie on each other
                continue
            umount(place)
            if number == device:
                yield
                return
            time.sleep(0.05)
            assert time.monotonic() < deadline


def test_a_new_mount_that_has_the_number_of_the_dead_one_is_left_alone(base: Path) -> None:
    """The guard is held up until its own mount is long gone, and another lives under the same number."""
    first = mount(base, *AUTO)
    guard = guard_of(first)
    device = os.stat(base / "merged").st_dev
    processes.stop(guard)
    try:
        kill(first)
        umount(base / "merged")
        for _ in range(20):
            with next_number(base, device):
                mount(base)
            if os.stat(base / "merged").st_dev == device:
                break
            run("umount", base / "merged")
        else:
            pytest.skip("another process has always taken the number meanwhile")
    finally:
        os.kill(guard, signal.SIGCONT)
    assert eventually(lambda: gone(guard))
    assert (base / "merged" / "file").read_text() == "lower\n"
    run("umount", base / "merged")
