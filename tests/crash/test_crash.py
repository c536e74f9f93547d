"""SIGKILL of the daemon: a handful of random moments, and the middle of a big file's copy-up by every way
into it: upper holds the old state or the new one (invariant 4), and what fsync(2) reported as stored
(invariant 15).

`make crash` goes on from here with hundreds of kills.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.crash.model import pattern
from testing.crash.record import kill_in_load
from testing.crash.rig import Rig, copy_up_under_way
from tests.support.mounts import (
    loop_fs,
    make_directories,
    needs_fuse,
    needs_overlayfs,
    overlayfs,
    pyunionfs,
    scratch,
)

pytestmark = [needs_fuse, needs_overlayfs]

SIZE = 192 << 20


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["redirect_dir=off"],
        ["redirect_dir=off", "rename_copy_bytes=1000000000"],
        ["index=on"],
        ["metacopy=on"],
        ["whiteouts=aufs", "redirect_dir=off"],
        ["passthrough=off"],
    ],
    ids=str,
)
def test_nothing_is_lost(options: list[str], transport: str, tmp_path: Path) -> None:
    with loop_fs("ext4", 1 << 30) as base:
        rig = Rig(base, f"fixed {options} {transport}", options=options)
        for _ in range(3):
            lost = kill_in_load(rig, tmp_path)
            assert not lost, lost
        assert rig.operations > 50, "the load did nothing"


@pytest.mark.parametrize("options", [[], ["writeback=0"], ["fsync=0"], ["writeback=0", "fsync=0"]], ids=str)
def test_what_a_mapping_has_is_not_said_to_be_stored(options: list[str], tmp_path: Path) -> None:
    """The kernel has it, and no daemon to send it to; it must ask for it, also if that did nothing before."""
    with scratch(tmp_path) as base:
        lower, upper, work, merged = make_directories(base)
        (upper / "file").write_bytes(b"old")
        answers = []
        with (
            pyunionfs([lower], upper, work, merged, options=["passthrough=off", *options]) as daemon,
            contextlib.suppress(OSError),  # of closing the file
            (merged / "file").open("r+b") as file,
            mmap.mmap(file.fileno(), 3) as data,
        ):
            os.fsync(file.fileno())
            data[:] = b"new"
            daemon.kill()
            syncs: list[Callable[[], object]] = [data.flush, lambda: os.fsync(file.fileno())]
            for sync in syncs:
                try:
                    sync()
                    answers.append(0)
                except OSError as error:
                    answers.append(error.errno or -1)
        assert answers == [errno.ENOTCONN] * 2
        assert (upper / "file").read_bytes() == b"old"


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"new")


WAYS: dict[str, Callable[[Path], object]] = {
    "append": _append,
    "chmod": lambda path: os.chmod(path, 0o700),
    "truncate": lambda path: os.truncate(path, SIZE - 5),
    "utime": lambda path: os.utime(path, ns=(10**9, 10**9)),
    "setxattr": lambda path: os.setxattr(path, "user.new", b"1"),
    "link": lambda path: os.link(path, path.with_name("other")),
    "rename": lambda path: os.rename(path, path.with_name("other")),
}


def _try(way: str, path: Path) -> None:
    try:
        WAYS[way](path)
    except OSError:
        os._exit(0)
    os._exit(3)


@pytest.mark.parametrize("way", WAYS)
def test_killed_in_the_middle_of_a_copy_up(way: str, tmp_path: Path) -> None:
    with scratch(tmp_path) as base:
        lower, upper, work, merged = make_directories(base)
        (lower / "dir").mkdir()
        file = lower / "dir" / "big"
        file.write_bytes(pattern(1, SIZE))
        os.chmod(file, 0o644)
        os.utime(file, ns=(5 * 10**17, 5 * 10**17 + 7))
        digest = hashlib.sha256(pattern(1, SIZE)).digest()
        before = os.lstat(file)
        with pyunionfs([lower], upper, work, merged) as daemon:
            caller = multiprocessing.get_context("fork").Process(
                target=_try, args=(way, merged / "dir" / "big")
            )
            caller.start()
            deadline = time.monotonic() + 20
            while not copy_up_under_way(work):
                assert caller.is_alive(), (
                    f"{way} was answered before its copy-up was seen ({caller.exitcode})"
                )
                assert time.monotonic() < deadline, "no copy-up began"
            daemon.kill()
            caller.join(15)
            assert caller.exitcode == 0, "the caller was answered although its copy-up was cut, or hangs"
        assert not (upper / "dir" / "big").exists(), "half a file, or one that nobody committed, is in upper"
        with pyunionfs([lower], upper, work, merged):
            assert os.listdir(work / "work") == []
            _check_untouched(merged, digest, before)
        with overlayfs([lower], upper, work, merged):
            _check_untouched(merged, digest, before)
        assert os.lstat(file).st_ctime_ns == before.st_ctime_ns


def _check_untouched(merged: Path, digest: bytes, before: os.stat_result) -> None:
    assert os.listdir(merged / "dir") == ["big"]
    now = os.lstat(merged / "dir" / "big")
    assert (now.st_mode, now.st_size, now.st_mtime_ns) == (before.st_mode, before.st_size, before.st_mtime_ns)
    assert os.listxattr(merged / "dir" / "big") == []
    assert hashlib.sha256((merged / "dir" / "big").read_bytes()).digest() == digest
