"""Who is told that data cannot be written, and what is let go of: on every way that data takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, Side, errno_of, in_child, side
from tests.mount.rig import eventually
from tests.support.kernel_cache import forget_unused
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root, pyunionfs, scratch
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

DATA = b"0123456789abcdef" * 4096


def one_file(lower: Path, upper: Path) -> None:
    (upper / "upper").write_bytes(DATA)


# --- who is told that it is not -----------------------------------------------------------------------


def write_and_close(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        written = 0
        while written < size:
            written += os.write(fd, bytes(1 << 16))
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)


@contextmanager
def little_room(way: str) -> Iterator[Side]:
    """Upper has a megabyte, and the lower's file has more."""
    with loop_fs("tmpfs", 1 << 20) as where, scratch() as base, side_on(way, base, where) as mounted:
        yield mounted


@contextmanager
def side_on(way: str, base: Path, where: Path) -> Iterator[Side]:
    for path in (base / "lower", where / "upper", where / "work", base / "merged"):
        path.mkdir()
    os.symlink(where / "upper", base / "upper")
    (base / "lower" / "large").write_bytes(DATA * 64)
    (base / "lower" / "small").write_bytes(DATA)
    layers = ([base / "lower"], where / "upper", where / "work", base / "merged")
    with pyunionfs(*layers, options=list(WAYS[way])):
        yield Side(base, None)


@pytest.mark.parametrize("way", WAYS)
def test_a_writer_is_told_that_there_is_no_room(way: str) -> None:
    with little_room(way) as mounted:
        merged = mounted.merged
        large = merged / "large"
        # The copy-up fails.
        assert errno_of(partial(write_and_close, large, 1)) == "ENOSPC"
        assert errno_of(partial(os.truncate, large, 5_000_000)) == "ENOSPC"
        assert list(mounted.upper.iterdir()) == []
        forget_pages(large)
        assert large.read_bytes() == DATA * 64
        # The copy-up succeeds, and the writing fails.
        assert errno_of(partial(write_and_close, merged / "small", 4 << 20)) == "ENOSPC"
        assert errno_of(partial(write_and_close, merged / "new", 4 << 20)) == "ENOSPC"
        (merged / "new").unlink()
        (merged / "small").unlink()
        # There is room again, as soon as the kernel has let go of what is unlinked.
        assert eventually(lambda: errno_of(partial(write_and_close, merged / "again", 1 << 19)) == "ok")
        assert (mounted.upper / "again").stat().st_size == 1 << 19


def forget_pages(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.parametrize("way", WAYS)
def test_fsync_tells_that_there_is_no_room(way: str) -> None:
    def work(path: Path) -> None:
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, b"x")
        os.fsync(fd)

    with little_room(way) as mounted:
        assert in_child(partial(work, mounted.merged / "large")) == "ENOSPC"


@pytest.mark.parametrize("way", WAYS)
def test_a_union_without_upper_refuses_at_the_open(way: str) -> None:
    with scratch() as base:
        for name in ("one", "two", "merged"):
            (base / name).mkdir()
        (base / "one" / "file").write_bytes(DATA)
        with pyunionfs([base / "one", base / "two"], None, None, base / "merged", options=list(WAYS[way])):
            path = base / "merged" / "file"
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC):
                assert errno_of(partial(os.open, path, flags)) == "EROFS"
            assert errno_of(partial(os.truncate, path, 0)) == "EROFS"
            assert path.read_bytes() == DATA


# --- what is let go of --------------------------------------------------------------------------------


@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", *WAYS])
def test_space_of_an_unlinked_file_is_free_after_its_last_close(way: str) -> None:
    def nothing(lower: Path, upper: Path) -> None:
        (lower / "lower").write_bytes(bytes(1 << 20))

    with loop_fs("tmpfs", 8 << 20) as where, side(way, nothing, directory=where) as mounted:

        def used() -> int:
            there = os.statvfs(where)
            return (there.f_blocks - there.f_bfree) * there.f_frsize

        before = used()
        for name in ("lower", "new", "renamed over"):
            path = mounted.merged / name
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            os.pwrite(fd, bytes(3 << 20), 0)
            os.fsync(fd)
            if name == "renamed over":
                (mounted.merged / "x").touch()
                (mounted.merged / "x").rename(path)
            else:
                path.unlink()
            assert used() >= before + (3 << 20)
            os.close(fd)
            assert eventually(lambda: used() < before + (1 << 18)), name


@pytest.mark.parametrize("way", WAYS)
def test_many_open_files(way: str) -> None:
    """More than the daemon keeps open, with data of each that it must find again; and no more stay open."""
    number = 1500

    def with_files(lower: Path, upper: Path) -> None:
        for each in range(number):
            (upper if each % 10 else lower).joinpath(str(each)).write_bytes(b"%06d" % each)

    with side(way, with_files) as mounted:
        before = mounted.descriptors()
        paths = [mounted.merged / str(each) for each in range(number)]
        fds = [os.open(path, os.O_RDWR) for path in paths]
        for _ in range(2):
            for fd in fds:
                os.pwrite(fd, b"!", 3)
            for each, fd in enumerate(fds):
                wanted = (b"%06d" % each)[:3] + b"!" + (b"%06d" % each)[4:]
                os.fsync(fd) if each % 50 == 0 else None
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(fd, 100, 0) == wanted
        for fd in fds:
            os.close(fd)
        for each in range(number):
            assert (mounted.upper / str(each)).read_bytes()[3:4] == b"!"
        for path in paths[::2]:
            path.unlink()
        forget_unused(mounted.merged)
        assert eventually(lambda: mounted.descriptors() < before + 20)


@pytest.mark.parametrize("way", WAYS)
def test_an_open_unlinked_file_costs_the_daemon_one_descriptor(way: str) -> None:
    """By passthrough, too: the one that serves the inode is the one that was opened."""
    number = 200

    def with_files(lower: Path, upper: Path) -> None:
        for each in range(number):
            (upper if each % 2 else lower).joinpath(str(each)).write_bytes(b"%06d" % each)

    with side(way, with_files) as mounted:
        before = mounted.descriptors()
        fds = []
        for each in range(number):
            path = mounted.merged / str(each)
            fds.append(os.open(path, os.O_RDWR))
            os.pwrite(fds[-1], b"!", 3)
            path.unlink()
            os.fsync(fds[-1])  # the kernel has had what it read of the lower file, and the write
            fds.append(os.open(mounted.merged, os.O_RDWR | os.O_TMPFILE) if way != "pyfuse3" else fds[-1])
            os.pwrite(fds[-1], b"!", 3)
        assert mounted.descriptors() < before + len(set(fds)) + 20
        for fd in fds:
            os.fchmod(fd, 0o640)
            assert os.fstat(fd).st_mode & 0o7777 == 0o640
            assert os.pread(fd, 1, 3) == b"!"
            assert os.readlink(f"/proc/self/fd/{fd}").endswith("(deleted)")
        for fd in set(fds):
            os.close(fd)
        assert eventually(lambda: mounted.descriptors() < before + 20)


@pytest.mark.parametrize("way", WAYS)
def test_files_that_are_made_do_not_stay_open(way: str) -> None:
    with side(way, one_file) as mounted:
        assert (mounted.merged / "upper").read_bytes() == DATA  # the kernel has opened a file
        before = mounted.descriptors()
        for each in range(3000):
            (mounted.merged / f"made {each}").write_bytes(b"%06d" % each)
        # With `cached` a thousand are kept.
        assert eventually(lambda: mounted.descriptors() < before + 1024 + 20)
        for each in range(3000):
            assert (mounted.merged / f"made {each}").read_bytes() == b"%06d" % each
        forget_unused(mounted.merged)
        assert eventually(lambda: mounted.descriptors() < before + 20)
