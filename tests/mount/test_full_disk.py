"""A full disk below: what a writer learns and what the mount shows after it, on every way that data takes.

Kernel overlayfs is the oracle of what is shown. Where the kernel caches writes, the errno
comes later; what was reported as stored is (invariant 15).
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, Side, errno_of
from tests.mount.rig import eventually
from tests.support.mounts import (
    loop_fs,
    make_directories,
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    pyunionfs,
    scratch,
)
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport, needs_overlayfs]

ALL = ["overlayfs", *WAYS]
PASSED = ("overlayfs", "default", "passthrough", "coherent")
"""The ways by which write(2) itself meets the disk."""

PAGE = mmap.PAGESIZE
BLOCK = 1 << 16
ROOM = 4 << 20
DATA = b"0123456789abcdef" * (BLOCK // 16)


@contextmanager
def little_room(way: str, kind: str = "tmpfs") -> Iterator[Side]:
    """Upper has ROOM bytes, or what the filesystem needs at least; lower is elsewhere."""
    with loop_fs(kind, ROOM) as where, scratch() as base:
        make_directories(base, "lower", "merged")
        make_directories(where, "upper", "work")
        os.symlink(where / "upper", base / "upper")
        (base / "lower" / "lower").write_bytes(DATA)
        (where / "upper" / "upper").write_bytes(DATA)
        layers = ([base / "lower"], where / "upper", where / "work", base / "merged")
        if way == "overlayfs":
            with overlayfs(*layers):
                yield Side(base, None)
        else:
            with pyunionfs(*layers, options=list(WAYS[way])) as daemon:
                yield Side(base, daemon)


def pattern(offset: int) -> bytes:
    """A block whose bytes say where it lies."""
    return (b"%015x\n" % offset) * (BLOCK // 16)


def write_blocks(fd: int, number: int) -> None:
    for each in range(number):
        block = pattern(each * BLOCK)
        done = 0
        while done < BLOCK:
            done += os.pwrite(fd, block[done:], each * BLOCK + done)


def overfill(path: Path) -> str:
    """Write more than there is room for, from the beginning, and close; how that ended."""

    def act() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            write_blocks(fd, 2 * ROOM // BLOCK)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)

    return errno_of(act)


def seen(mounted: Side, name: str) -> tuple[int, bytes]:
    path = mounted.merged / name
    return path.stat().st_size, path.read_bytes()


def stored(mounted: Side, name: str) -> tuple[int, bytes]:
    path = mounted.upper / name
    return path.stat().st_size, path.read_bytes()


@pytest.mark.parametrize("name", ["lower", "upper", "new"])
def test_what_is_shown_is_what_is_stored(name: str) -> None:
    sizes = {}
    for way in ALL:
        with little_room(way) as mounted:
            assert overfill(mounted.merged / name) == "ENOSPC", way
            # The kernel lets go of what was not stored when the last close has returned.
            assert eventually(lambda: seen(mounted, name) == stored(mounted, name)), way
            size, data = seen(mounted, name)
            assert data == b"".join(pattern(offset) for offset in range(0, size, BLOCK))[:size], way
            sizes[way] = size
            # There is room again as soon as the file is gone.
            (mounted.merged / name).unlink()
            again = mounted.merged / "again"
            assert eventually(lambda: errno_of(lambda: again.write_bytes(DATA)) == "ok"), way  # noqa: B023
            assert stored(mounted, "again") == seen(mounted, "again") == (BLOCK, DATA)
    # Directories and attributes take a page or two of the same filesystem.
    assert max(sizes.values()) - min(sizes.values()) <= 8 * PAGE, sizes


@pytest.mark.parametrize("way", ALL)
def test_a_writer_that_goes_on(way: str) -> None:
    """After fsync(2) has said it, write(2) says it, until there is room; nobody else's calls do."""
    with little_room(way) as mounted:
        path = mounted.merged / "new"
        (mounted.merged / "other").write_bytes(bytes(ROOM // 4))
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        reader = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(OSError, match="No space left"):
                write_blocks(fd, 2 * ROOM // BLOCK)
                os.fsync(fd)
            size = (mounted.upper / "new").stat().st_size
            for _ in range(2):
                with pytest.raises(OSError, match="No space left"):
                    os.pwrite(fd, DATA, size)
                assert os.pread(reader, BLOCK, 0) == pattern(0)
                os.pread(reader, 2 * BLOCK, 2 * ROOM - BLOCK)
                os.lseek(reader, 0, os.SEEK_END)
                os.fstat(reader)
                path.stat()
            # Data of others that needs no room is stored.
            with (mounted.merged / "upper").open("r+b", buffering=0) as inside:
                inside.write(b"in place")
                os.fsync(inside.fileno())
            assert stored(mounted, "upper")[1].startswith(b"in place")
            (mounted.merged / "other").unlink()
            assert eventually(lambda: errno_of(lambda: os.pwrite(fd, DATA, size)) == "ok")
            os.fsync(fd)
            assert stored(mounted, "new")[1][size : size + BLOCK] == DATA
        finally:
            for each in (reader, fd):
                errno_of(lambda: os.close(each))  # noqa: B023  (may say it once more)
        assert eventually(lambda: seen(mounted, "new") == stored(mounted, "new"))


@pytest.mark.parametrize("way", ALL)
def test_truncate_after_it_ends_it(way: str) -> None:
    """As programs do that clear up after a failure: the size is right at once, with the file open."""
    with little_room(way) as mounted:
        fd = os.open(mounted.merged / "new", os.O_RDWR | os.O_CREAT)
        try:
            with pytest.raises(OSError, match="No space left"):
                write_blocks(fd, 2 * ROOM // BLOCK)
                os.fsync(fd)
            os.ftruncate(fd, BLOCK)
            assert os.fstat(fd).st_size == BLOCK
            assert seen(mounted, "new") == stored(mounted, "new") == (BLOCK, pattern(0))
            assert eventually(lambda: errno_of(lambda: os.pwrite(fd, DATA, BLOCK)) == "ok")
            os.fsync(fd)
            assert seen(mounted, "new") == stored(mounted, "new") == (2 * BLOCK, pattern(0) + DATA)
        finally:
            os.close(fd)


def stores(path: Path) -> str:
    """Store into a hole by a shared mapping, in a process of its own, and sync that; how it ended."""
    code = f"""
import errno, mmap, os
fd = os.open({str(path)!r}, os.O_RDWR)
view = mmap.mmap(fd, 0)
view[:5] = b"store"
try:
    view.flush()
except OSError as error:
    raise SystemExit(error.errno)
"""
    status = subprocess.run(["python3", "-c", code], check=False).returncode
    return signal.Signals(-status).name if status < 0 else errno.errorcode.get(status, "ok")


@pytest.mark.parametrize("way", ALL)
def test_what_a_mapping_could_not_store_is_not_shown(way: str) -> None:
    with little_room(way) as mounted:
        with (mounted.merged / "holes").open("wb") as file:
            file.truncate(BLOCK)
        reader = os.open(mounted.merged / "holes", os.O_RDONLY)
        try:
            overfill(mounted.merged / "new")
            outcome = stores(mounted.merged / "holes")
            # The kernel's own filesystem is asked by the store itself.
            assert outcome == ("SIGBUS" if way in PASSED else "ENOSPC")
            assert eventually(lambda: os.pread(reader, BLOCK, 0) == bytes(BLOCK))
            assert eventually(
                lambda: seen(mounted, "holes") == stored(mounted, "holes") == (BLOCK, bytes(BLOCK))
            )
        finally:
            os.close(reader)


@pytest.mark.parametrize("way", ALL)
def test_a_file_too_large_for_the_filesystem(way: str) -> None:
    """EFBIG is of the same kind: the writer's own limit the kernel knows, that of upper's filesystem not."""
    with little_room(way, "ext4") as mounted:
        fd = os.open(mounted.merged / "upper", os.O_RDWR)
        try:
            with pytest.raises(OSError, match="File too large"):
                os.pwrite(fd, b"far", 1 << 44)
                os.fsync(fd)
            os.pwrite(fd, b"near", 0) if way in PASSED else errno_of(lambda: os.pwrite(fd, b"near", 0))
            os.pwrite(fd, b"near", 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        wanted = BLOCK, b"near" + DATA[4:]
        assert eventually(lambda: seen(mounted, "upper") == wanted)
        assert stored(mounted, "upper") == wanted
