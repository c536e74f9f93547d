"""Data through a mount: mmap, O_DIRECT, O_APPEND, O_TRUNC, locks, sync, and what statfs says."""

from __future__ import annotations

import fcntl
import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import make_directories, needs_fuse, needs_root, pyunionfs, scratch

pytestmark = [needs_root, needs_fuse]

PAGE = mmap.PAGESIZE
LOWER = b"lower" * 4000


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        make_directories(directory)
        (directory / "lower" / "f").write_bytes(LOWER)
        yield directory


@pytest.fixture
def merged(base: Path) -> Iterator[Path]:
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged") as daemon:
        yield daemon.merged
    assert (base / "lower" / "f").read_bytes() == LOWER, "the lower was written"


@pytest.fixture
def coherent(base: Path) -> Iterator[Path]:
    """As POSIX has it: an old reader's file is the one that is written."""
    layers = ([base / "lower"], base / "upper", base / "work", base / "merged")
    with pyunionfs(*layers, options=["coherent"]) as daemon:
        yield daemon.merged
    assert (base / "lower" / "f").read_bytes() == LOWER, "the lower was written"


def in_a_process(action: Callable[[], object]) -> int:
    """Run in a forked process (locks belong to processes); its exit status."""
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join(20)
    assert process.exitcode is not None
    return process.exitcode


def test_shared_mapping_of_a_lower_file_is_written(base: Path, merged: Path) -> None:
    with open(merged / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[PAGE : PAGE + 3] = b"new"
        view.flush()
    wanted = LOWER[:PAGE] + b"new" + LOWER[PAGE + 3 :]
    assert (merged / "f").read_bytes() == wanted
    assert (base / "upper" / "f").read_bytes() == wanted


def test_old_mapping_sees_what_is_written_after_the_copy_up(coherent: Path) -> None:
    with open(coherent / "f", "rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert view[:5] == b"lower"
        with open(coherent / "f", "r+b") as writer:
            writer.write(b"UPPER")
        assert view[:5] == b"UPPER"
        view.close()


def test_private_mapping_changes_nothing(base: Path, merged: Path) -> None:
    with (
        open(merged / "f", "rb") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view,
    ):
        view[:5] = b"XXXXX"
    assert (merged / "f").read_bytes() == LOWER
    assert not (base / "upper" / "f").exists()


def test_direct_io(merged: Path) -> None:
    fd = os.open(merged / "direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 2 * PAGE) as buffer:
        buffer[:] = b"d" * (2 * PAGE)
        assert os.writev(fd, [buffer]) == 2 * PAGE
        buffer[:] = bytes(2 * PAGE)
        assert os.preadv(fd, [buffer], PAGE) == PAGE
        assert buffer[:PAGE] == b"d" * PAGE
    os.close(fd)


def test_appending_by_several_writers_loses_nothing(merged: Path) -> None:
    def append(mark: bytes) -> None:
        fd = os.open(merged / "f", os.O_WRONLY | os.O_APPEND)
        for _ in range(200):
            os.write(fd, mark * 10)

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append, args=(mark,)) for mark in (b"a", b"b", b"c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    added = (merged / "f").read_bytes()[len(LOWER) :]
    pieces = [added[at : at + 10] for at in range(0, len(added), 10)]
    assert sorted(pieces) == sorted([mark * 10 for mark in (b"a", b"b", b"c")] * 200)


def test_truncating_open_of_a_lower_file(base: Path, merged: Path) -> None:
    with open(merged / "f", "wb"):
        assert (merged / "f").read_bytes() == b""
    assert (base / "upper" / "f").read_bytes() == b""


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_locks(merged: Path, how: str) -> None:
    lock = getattr(fcntl, how)

    def try_it() -> None:
        with open(merged / "f", "r+b") as other:
            try:
                lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os._exit(7)
        os._exit(0)

    with open(merged / "f", "r+b") as mine:
        lock(mine, fcntl.LOCK_EX)
        assert in_a_process(try_it) == 7
        lock(mine, fcntl.LOCK_UN)
        assert in_a_process(try_it) == 0


def test_sync_of_files_and_directories(merged: Path) -> None:
    with open(merged / "f", "r+b") as file:
        file.write(b"S")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    directory = os.open(merged, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def test_statfs_is_uppers(base: Path, merged: Path) -> None:
    ours, upper = os.statvfs(merged), os.statvfs(base / "upper")
    assert (ours.f_blocks, ours.f_files, ours.f_namemax) == (upper.f_blocks, upper.f_files, upper.f_namemax)


def test_file_goes_on_through_proc_after_its_unlink(coherent: Path) -> None:
    with open(coherent / "f", "rb") as file:
        (coherent / "f").unlink()
        again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR)
        assert os.pread(again, 5, 0) == b"lower"
        os.pwrite(again, b"after", 0)
        assert os.fstat(again).st_nlink == 0
        assert file.read(5) == b"after"
        os.close(again)
