"""fallocate(2) in all its modes, and holes: the same bytes, size and blocks as on a file without a union."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.overlay.rig import ROOT, USER, Stack, View
from tests.overlay.test_privileges import MODES
from tests.overlay.trees import build, file
from tests.support.mounts import loop_fs
from unionfs.linux.syscalls import fallocate

KEEP_SIZE = 1
PUNCH_HOLE = 2
COLLAPSE_RANGE = 8
ZERO_RANGE = 0x10
INSERT_RANGE = 0x20
UNSHARE_RANGE = 0x40
UNKNOWN = 0x4000

KIB = 1024
DATA = bytes(range(256)) * 256  # 64 KiB

CALLS = {
    # mode, offset, length
    "within": (0, 4 * KIB, 8 * KIB),
    "longer": (0, 60 * KIB, 100 * KIB),
    "longer, size kept": (KEEP_SIZE, 60 * KIB, 100 * KIB),
    "far behind": (0, 1024 * KIB, 3),
    "punch": (PUNCH_HOLE | KEEP_SIZE, 8 * KIB, 16 * KIB),
    "punch, unaligned": (PUNCH_HOLE | KEEP_SIZE, 8 * KIB + 7, 16 * KIB + 5),
    "punch behind the end": (PUNCH_HOLE | KEEP_SIZE, 128 * KIB, 16 * KIB),
    "punch without keeping the size": (PUNCH_HOLE, 0, 4 * KIB),
    "zero": (ZERO_RANGE, 8 * KIB, 16 * KIB),
    "zero, longer": (ZERO_RANGE, 60 * KIB, 16 * KIB),
    "zero, longer, size kept": (ZERO_RANGE | KEEP_SIZE, 60 * KIB, 16 * KIB),
    "collapse": (COLLAPSE_RANGE, 8 * KIB, 16 * KIB),
    "collapse, unaligned": (COLLAPSE_RANGE, 8 * KIB + 1, 16 * KIB),
    "collapse to the end": (COLLAPSE_RANGE, 60 * KIB, 8 * KIB),
    "insert": (INSERT_RANGE, 8 * KIB, 16 * KIB),
    "insert at the end": (INSERT_RANGE, 64 * KIB, 16 * KIB),
    "unshare": (UNSHARE_RANGE, 0, 64 * KIB),
    "nothing": (0, 0, 0),
    "negative": (0, -1, 10),
    "too far": (0, 1 << 62, 1 << 62),
    "unknown": (UNKNOWN, 0, 10),
}


def result(path: Path, mode: int, offset: int, length: int) -> int:
    fd = os.open(path, os.O_RDWR)
    try:
        fallocate(fd, mode, offset, length)
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(fd)
    return 0


@pytest.mark.parametrize("call", CALLS)
def test_modes(stack: Stack, base: Path, call: str) -> None:
    mode, offset, length = CALLS[call]
    stack.layers({"f": file(DATA)})
    twin = build(base / "twin", {"f": file(DATA)}) / "f"
    code = result(twin, mode, offset, length)
    with stack.open() as view, view.opened("f", os.O_RDWR) as handle:
        answer = 0
        try:
            view.union.allocate(handle, mode, offset, length, ROOT)
        except OSError as error:
            answer = error.errno or 0
        assert answer == code
        assert view.read("f") == twin.read_bytes()[: 1 << 20]
    ours = (stack.upper / "f").stat()
    assert (ours.st_size, ours.st_blocks) == (twin.stat().st_size, twin.stat().st_blocks)
    assert (stack.lowers[0] / "f").read_bytes() == DATA


def test_unshare_where_files_share(base: Path) -> None:
    """A copy-up by reflink shares its blocks; asked to, the filesystem gives the file its own."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("needs mkfs.xfs")
    with loop_fs("xfs", directory=base) as where:
        stack = Stack(where).layers({"f": file(DATA)})
        with stack.open() as view, view.opened("f", os.O_RDWR) as handle:
            before = os.statvfs(where).f_bfree
            view.union.allocate(handle, UNSHARE_RANGE, 0, len(DATA), ROOT)
            os.fsync(handle.fd)
            assert os.statvfs(where).f_bfree <= before - len(DATA) // 4096
            assert view.read("f") == DATA


def test_a_handle_that_cannot_write(stack: Stack) -> None:
    stack.layers({"f": "data"})
    with stack.open() as view, view.opened("f") as handle:
        with pytest.raises(OSError) as failure:
            view.union.allocate(handle, 0, 0, 10, ROOT)
        assert failure.value.errno == errno.EBADF
    assert not (stack.upper / "f").exists()


@pytest.mark.parametrize("before", MODES, ids=oct)
@pytest.mark.parametrize("mode", [0, KEEP_SIZE | PUNCH_HOLE])
def test_set_ids_go(stack: Stack, before: int, mode: int) -> None:
    stack.layers({"f": file("data", mode=before)})
    with stack.open() as view, view.opened("f", os.O_RDWR) as handle:
        view.union.allocate(handle, mode, 0, 4096, ROOT)
        assert stat.S_IMODE(view.stat("f").st_mode) == before, "root holds CAP_FSETID"
        view.union.allocate(handle, mode, 0, 4096, USER)
        assert stat.S_IMODE(view.stat("f").st_mode) == MODES[before]


def test_a_full_disk(base: Path) -> None:
    with loop_fs("tmpfs", 1 << 20) as where:
        stack = Stack(where).layers({"f": "data"})
        with stack.open() as view, view.opened("f", os.O_RDWR) as handle:
            with pytest.raises(OSError) as failure:
                view.union.allocate(handle, 0, 0, 8 << 20, ROOT)
            assert failure.value.errno == errno.ENOSPC
            assert view.read("f") == b"data"


# --- holes -----------------------------------------------------------------------------------------


def sparse(path: Path) -> None:
    """64 KiB of nothing, 4 KiB of data, nothing up to 1 MiB."""
    with path.open("wb") as f:
        f.seek(64 * KIB)
        f.write(b"x" * 4 * KIB)
        f.truncate(1024 * KIB)


SEEKS = [
    (os.SEEK_DATA, 0),
    (os.SEEK_HOLE, 0),
    (os.SEEK_DATA, 65 * KIB),
    (os.SEEK_HOLE, 65 * KIB),
    (os.SEEK_DATA, 70 * KIB),
    (os.SEEK_HOLE, 1024 * KIB - 1),
    (os.SEEK_HOLE, 1024 * KIB),
    (os.SEEK_DATA, -1),
    (os.SEEK_SET, 0),
    (os.SEEK_END, 0),
    (99, 0),
]


def found(seek: object, *arguments: int) -> int:
    try:
        return int(seek(*arguments))  # type: ignore[operator]
    except OSError as error:
        return -(error.errno or 0)


@pytest.mark.parametrize("where", ["lower", "copied up", "metacopy"])
@pytest.mark.parametrize(("whence", "offset"), SEEKS)
def test_seek(stack: Stack, where: str, whence: int, offset: int) -> None:
    stack.layers({"f": ""})
    lower = stack.lowers[0] / "f"
    sparse(lower)
    with lower.open("rb") as f:
        expected = found(os.lseek, f.fileno(), offset, whence)
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        expected = -errno.EINVAL  # the kernel never asks for the others
    with stack.open(metacopy=where == "metacopy") as view:
        if where != "lower":
            view.chmod("f", 0o600)
        with view.opened("f") as handle:
            assert found(view.union.seek, handle, offset, whence) == expected  # type: ignore[arg-type]


def test_an_old_reader_sees_new_holes(stack: Stack) -> None:
    """SEEK_DATA and SEEK_HOLE follow a copy-up as reads do."""
    stack.layers({"f": file(DATA)})
    with stack.open() as view, view.opened("f") as reader, view.opened("f", os.O_RDWR) as writer:
        assert view.union.seek(reader, 0, os.SEEK_HOLE) == len(DATA)
        view.union.allocate(writer, PUNCH_HOLE | KEEP_SIZE, 0, 16 * KIB, ROOT)
        assert view.union.seek(reader, 0, os.SEEK_DATA) == 16 * KIB
        assert _holes(view, "f") == 0


def _holes(view: View, path: str) -> int:
    with view.opened(path) as handle:
        return view.union.seek(handle, 0, os.SEEK_HOLE)
