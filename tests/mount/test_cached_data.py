"""When data is in upper, who sees it, and who is told that it is not: on every way that data takes.

Through the kernel's cache nothing is asked at an open, and a write may reach the daemon long after write(2)
has returned; with passthrough it never does.
"""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, Side, in_child, side
from tests.mount.rig import eventually, statuses
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

PAGE = mmap.PAGESIZE
DATA = b"0123456789abcdef" * 4096
ALL = ["overlayfs", *WAYS]
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

LAYERS = ("lower", "upper", "new")
TESTS = 10


def populate(lower: Path, upper: Path) -> None:
    for number in range(TESTS):
        (lower / f"lower {number}").write_bytes(DATA)
        (upper / f"upper {number}").write_bytes(DATA)


@pytest.fixture(scope="module", params=ALL)
def union(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Iterator[int]]]:
    """A mount by each way, and numbers of files in it that no test has had."""
    if request.param == "overlayfs" and needs_overlayfs.args[0]:
        pytest.skip(str(needs_overlayfs.kwargs["reason"]))
    with side(request.param, populate) as mounted:
        yield mounted, itertools.count()


@pytest.fixture(params=LAYERS)
def file(union: tuple[Side, Iterator[int]], request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """A file by its merged path, and where it is once it lies in upper."""
    mounted, numbers = union
    name = f"{request.param} {next(numbers) // len(LAYERS)}"
    path = mounted.merged / name
    if request.param == "new":
        path.write_bytes(DATA)
    yield path, mounted.upper / name
    if request.param == "lower":
        assert (mounted.lower / name).read_bytes() == DATA


def one_file(lower: Path, upper: Path) -> None:
    (lower / "lower").write_bytes(DATA)


# --- when it is in upper ------------------------------------------------------------------------------


def test_data_is_in_upper_after_fsync_and_after_close(file: tuple[Path, Path]) -> None:
    path, upper = file
    fd = os.open(path, os.O_RDWR)
    for sync in (os.fsync, os.fdatasync):
        data = sync.__name__.encode()
        os.pwrite(fd, data, PAGE - 3)
        sync(fd)
        assert upper.read_bytes()[PAGE - 3 :].startswith(data)
    other = os.dup(fd)
    os.pwrite(fd, b"one is closed", 3 * PAGE)
    os.close(fd)
    assert upper.read_bytes()[3 * PAGE :].startswith(b"one is closed")
    os.pwrite(other, b"and the other", len(DATA))
    os.close(other)
    assert upper.read_bytes()[len(DATA) :] == b"and the other"
    assert path.stat().st_size == upper.stat().st_size == len(DATA) + 13


def test_data_of_a_mapping_is_in_upper_after_msync_and_after_munmap(file: tuple[Path, Path]) -> None:
    path, upper = file
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        view[:5] = b"msync"
        view.flush()
        assert upper.read_bytes()[:5] == b"msync"
        os.close(fd)
        view[PAGE : PAGE + 6] = b"munmap"
    assert upper.read_bytes()[PAGE : PAGE + 6] == b"munmap"


def test_data_of_a_writer_that_is_killed_is_in_upper(file: tuple[Path, Path]) -> None:
    path, upper = file
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"written", 10)
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    wanted = DATA[:10] + b"written" + DATA[17:]
    assert path.read_bytes() == wanted
    # What the dead process's descriptors have left is written as they are closed.
    assert eventually(lambda: upper.read_bytes() == wanted)


@needs_overlayfs
@pytest.mark.parametrize("way", ALL)
def test_what_is_done_to_a_file_between_write_and_close(way: str) -> None:
    """Data that waits in a cache must neither undo nor lose it."""
    with side(way, one_file) as mounted:
        merged, upper = mounted.merged, mounted.upper

        def written(name: str) -> int:
            fd = os.open(merged / name, os.O_RDWR | os.O_CREAT)
            os.pwrite(fd, b"waits", 0)
            return fd

        fd = written("capability")
        os.setxattr(fd, "security.capability", CAPABILITY)
        os.close(fd)
        assert os.getxattr(merged / "capability", "security.capability") == CAPABILITY
        assert os.getxattr(upper / "capability", "security.capability") == CAPABILITY

        fd = written("set-id")
        os.fchmod(fd, 0o4755)
        os.close(fd)
        assert (upper / "set-id").stat().st_mode & 0o7777 == 0o4755

        fd = written("times")
        os.utime(fd, ns=(10**18, 10**18 + 5))
        os.close(fd)
        assert (merged / "times").stat().st_mtime_ns == (upper / "times").stat().st_mtime_ns == 10**18 + 5

        fd = written("renamed")
        (merged / "renamed").rename(merged / "other name")
        os.pwrite(fd, b", and more", 5)
        os.close(fd)
        assert (upper / "other name").read_bytes() == b"waits, and more"

        fd = written("truncated")
        os.truncate(merged / "truncated", 2)
        os.pwrite(fd, b"!", 4)
        os.close(fd)
        assert (merged / "truncated").read_bytes() == (upper / "truncated").read_bytes() == b"wa\0\0!"

        fd = written("lower")
        (merged / "lower").unlink()
        assert os.pread(fd, 10, 0) == b"waits" + DATA[5:10]
        os.close(fd)
        assert not (merged / "lower").exists()
        assert not (upper / "lower").is_file()


# --- who sees it --------------------------------------------------------------------------------------


def mapped_write(path: Path, at: int, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        view[at : at + len(data)] = data
    os.close(fd)


def test_two_processes_share_a_mapping(file: tuple[Path, Path]) -> None:
    path, upper = file
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        for turn in range(20):
            data = b"turn %03d" % turn
            assert in_child(partial(mapped_write, path, turn * PAGE // 3, data)) == "ok"
            assert view[turn * PAGE // 3 :][:8] == data
            assert os.pread(fd, 8, turn * PAGE // 3) == data
            view[turn * 7 : turn * 7 + 4] = b"mine"
            assert path.read_bytes()[turn * 7 :][:4] == b"mine"
        wanted = view[:]
    os.close(fd)
    assert upper.read_bytes() == path.read_bytes() == wanted


def append_lines(path: Path, mark: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(300):
        assert os.write(fd, b"%s%06d\n" % (mark, number)) == 8
    os.close(fd)


def test_several_processes_append(file: tuple[Path, Path]) -> None:
    path, upper = file
    pids = []
    for mark in (b"a", b"b", b"c"):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                append_lines(path, mark)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    added = path.read_bytes()[len(DATA) :].splitlines()
    assert sorted(added) == sorted(b"%s%06d" % (mark, n) for mark in (b"a", b"b", b"c") for n in range(300))
    for mark in (b"a", b"b", b"c"):
        mine = [line for line in added if line.startswith(mark)]
        assert mine == sorted(mine)
    assert upper.read_bytes() == path.read_bytes()


def test_direct_and_cached_descriptors_of_one_file(file: tuple[Path, Path]) -> None:
    path, upper = file
    plain, direct = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, PAGE) as page:
        for turn in range(10):
            assert os.pread(plain, PAGE, turn * PAGE) == DATA[:PAGE]
            page[:] = b"%04d" % turn * (PAGE // 4)
            assert os.pwritev(direct, [page], turn * PAGE) == PAGE
            assert os.pread(plain, PAGE, turn * PAGE) == page[:]
            assert upper.read_bytes()[turn * PAGE : (turn + 1) * PAGE] == page[:]
            os.pwrite(plain, b"plain", turn * PAGE + 100)
            assert os.preadv(direct, [page], turn * PAGE) == PAGE
            assert page[100:105] == b"plain"
    os.close(direct)
    os.close(plain)


# --- sizes, holes, and what is past the end -----------------------------------------------------------


def test_reads_at_the_end_and_past_it(file: tuple[Path, Path]) -> None:
    path, _ = file
    end = len(DATA)
    with path.open("r+b", buffering=0) as opened:
        fd = opened.fileno()
        for _ in range(2):
            assert os.pread(fd, 100, end - 7) == DATA[-7:]
            assert os.pread(fd, 1 << 21, 5) == DATA[5:]
            assert os.pread(fd, 100, end) == os.pread(fd, 100, end + PAGE) == b""
            # And again when the file has become shorter by somebody else's hand.
            assert in_child(partial(os.truncate, path, end)) == "ok"
        assert in_child(partial(os.truncate, path, 1000)) == "ok"
        assert os.pread(fd, 2000, 900) == DATA[900:1000]
        os.pwrite(fd, b"far", 5 * PAGE)
        assert os.pread(fd, 6 * PAGE, 1000) == bytes(5 * PAGE - 1000) + b"far"


@needs_overlayfs
@pytest.mark.parametrize("way", ALL)
def test_large_sparse_files(way: str) -> None:
    size = 5 << 30

    def with_holes(lower: Path, upper: Path) -> None:
        for path in (lower / "lower", upper / "upper"):
            with path.open("wb") as file:
                file.truncate(size)
                for at in (0, 1 << 20, size - 5):
                    os.pwrite(file.fileno(), b"data!", at)

    with side(way, with_holes) as mounted:
        for name in ("lower", "upper"):
            path = mounted.merged / name
            with path.open("r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"more!", (4 << 30) + 17)
            with path.open("rb", buffering=0) as file:
                for at, wanted in ((0, b"data!"), (3 << 30, bytes(5)), ((4 << 30) + 17, b"more!")):
                    assert os.pread(file.fileno(), 5, at) == wanted
                assert os.pread(file.fileno(), 100, size - 5) == b"data!"
            st = path.stat()
            assert st.st_size == size
            assert st.st_blocks * 512 < 16 << 20
            assert (mounted.upper / name).stat().st_blocks * 512 < 16 << 20


@pytest.mark.parametrize("way", ["cached", "checked"])
def test_large_requests(way: str) -> None:
    """A megabyte is one request, be it written or read."""
    with side(way, one_file) as mounted:
        path = mounted.merged / "large"
        block = os.urandom(1 << 20)
        with path.open("wb", buffering=0) as file:
            for _ in range(32):
                assert file.write(block) == 1 << 20
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with path.open("rb", buffering=0) as file:
            for _ in range(32):
                assert file.read(1 << 20) == block
        counts = statuses(mounted.merged)[0]["requests"]
        assert counts["WRITE"] <= 64
        assert counts["READ"] <= 300  # what readahead makes of it
        assert (mounted.upper / "large").read_bytes() == block * 32
