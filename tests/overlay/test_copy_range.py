"""copy_file_range(2) between files of a union, wherever they lie."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.rig import ROOT, USER, Stack
from tests.overlay.trees import disk, file
from tests.support.mounts import loop_fs
from unionfs.linux.syscalls import fallocate

DATA = os.urandom(200_000)
MOST = 16 << 20


@pytest.mark.parametrize("target", ["new", "upper", "lower"])
@pytest.mark.parametrize("source", ["lower", "upper", "copied up", "metacopy"])
@pytest.mark.parametrize(("at", "to", "length"), [(0, 0, 200_000), (4097, 3, 70_001), (199_990, 8, 100)])
def test_wherever_they_lie(stack: Stack, source: str, target: str, at: int, to: int, length: int) -> None:
    stack.layers({"in": file(DATA), "lower": "lower", "pad": ""}, upper={"upper": "upper"})
    with stack.open(metacopy=source == "metacopy") as view:
        if source == "upper":
            view.create("own", DATA)
        elif source == "copied up":
            with view.opened("in", os.O_RDWR):
                pass
        elif source == "metacopy":
            view.chmod("in", 0o600)
        if target == "new":
            view.create("new")
        before = view.read(target)
        with view.opened("own" if source == "upper" else "in") as f, view.opened(target, os.O_RDWR) as g:
            done = view.copy_range(f, at, g, to, length, ROOT)
        assert done == min(length, len(DATA) - at)
        expected = bytearray(before.ljust(to + done, b"\0"))
        expected[to : to + done] = DATA[at : at + done]
        assert view.read(target) == expected
    assert (stack.lowers[0] / "in").read_bytes() == DATA
    assert (stack.lowers[0] / "lower").read_bytes() == b"lower"


def test_an_old_reader_as_source(stack: Stack) -> None:
    """A source that was opened in a lower and has been changed since gives what is there now."""
    stack.layers({"f": "old data"})
    with stack.open() as view, view.opened("f") as reader:
        view.write("f", b"new")
        view.create("g")
        with view.opened("g", os.O_WRONLY) as target:
            assert view.copy_range(reader, 0, target, 0, 100) == 8
        assert view.read("g") == b"new data"


def test_within_one_file(stack: Stack) -> None:
    stack.layers({"f": "0123456789"})
    with stack.open() as view, view.opened("f", os.O_RDWR) as handle:
        assert view.copy_range(handle, 0, handle, 10, 10) == 10
        assert view.read("f") == b"01234567890123456789"
        with pytest.raises(OSError) as failure:
            view.copy_range(handle, 0, handle, 2, 10)
        assert failure.value.errno == errno.EINVAL, "the two overlap"


def test_the_target_must_be_writable(stack: Stack) -> None:
    stack.layers({"f": "f", "g": "g"})
    with stack.open() as view, view.opened("f") as source, view.opened("g") as target:
        with pytest.raises(OSError) as failure:
            view.copy_range(source, 0, target, 0, 1)
        assert failure.value.errno == errno.EBADF
    assert disk(stack.upper) == {}


def test_behind_the_end(stack: Stack) -> None:
    stack.layers({"f": "f"})
    with stack.open() as view:
        view.create("g")
        with view.opened("f") as source, view.opened("g", os.O_WRONLY) as target:
            assert view.copy_range(source, 5, target, 0, 10) == 0
            assert view.copy_range(source, 5, target, 0, MOST + 1) == 0


@pytest.mark.parametrize("who", [USER, None], ids=["caller", "opener"])
def test_set_ids_go(stack: Stack, who: object) -> None:
    stack.layers({"f": "f", "g": file("", mode=0o6755), "h": file("", mode=0o6755)})
    with stack.open() as view, view.opened("f") as source:
        with view.opened("g", os.O_WRONLY, USER) as target:
            assert stat.S_IMODE(view.stat("g").st_mode) == 0o6755
            view.copy_range(source, 0, target, 0, 1, who)  # type: ignore[arg-type]
        assert stat.S_IMODE(view.stat("g").st_mode) == 0o755
        with view.opened("h", os.O_WRONLY) as target:
            view.copy_range(source, 0, target, 0, 1, ROOT if who else None)
        assert stat.S_IMODE(view.stat("h").st_mode) == 0o6755


def test_as_a_job_in_another_thread(stack: Stack) -> None:
    """The job touches its two descriptors only; the union may do other things meanwhile."""
    stack.layers({"f": file(DATA)})
    with stack.open() as view:
        view.create("g")
        with view.opened("f") as source, view.opened("g", os.O_WRONLY) as target:
            job = view.union.copy_range_job(source, 0, target, 0, len(DATA), ROOT)
            view.write("f", b"changed")
            view.unlink("f")
            answers: list[int] = []
            worker = threading.Thread(target=lambda: answers.append(job()))
            worker.start()
            worker.join()
        assert answers == [len(DATA)]
        assert view.read("g") == DATA, "what the source was when the job was made"


def test_a_long_copy_comes_in_pieces(stack: Stack) -> None:
    stack.layers({"f": file("data", size=MOST + 5)})
    with stack.open() as view:
        view.create("g")
        with view.opened("f") as source, view.opened("g", os.O_WRONLY) as target:
            assert view.copy_range(source, 0, target, 0, 1 << 40) == MOST
            assert view.copy_range(source, MOST, target, MOST, 1 << 40) == 5
        assert view.stat("g").st_size == MOST + 5


# --- filesystems -----------------------------------------------------------------------------------


@pytest.fixture(params=["xfs", "btrfs"])
def sharing(base: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    kind: str = request.param
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs mkfs.{kind}")
    with loop_fs(kind, directory=base) as where:
        yield where


@pytest.mark.parametrize("extra", [0, 5])
def test_shared_where_it_can_be(sharing: Path, extra: int) -> None:
    """Longer than what one call copies, and done at once: no block is written but the last, unaligned one."""
    size = 2 * MOST + extra
    stack = Stack(sharing).layers({"f": ""})
    (stack.lowers[0] / "f").write_bytes(os.urandom(size))
    os.sync()
    with stack.open() as view:
        view.create("g")
        with view.opened("f") as source, view.opened("g", os.O_WRONLY) as target:
            before = os.statvfs(sharing).f_bavail
            assert view.copy_range(source, 0, target, 0, 1 << 40) == size
            os.fsync(target.fd)
            assert before - os.statvfs(sharing).f_bavail < MOST // 4096
    assert (stack.upper / "g").read_bytes() == (stack.lowers[0] / "f").read_bytes()


def test_unaligned_on_a_filesystem_that_shares(sharing: Path) -> None:
    stack = Stack(sharing).layers({"f": file(DATA, size=MOST + 100_000)})
    with stack.open() as view:
        view.create("g")
        with view.opened("f") as source, view.opened("g", os.O_WRONLY) as target:
            assert view.copy_range(source, 7, target, 3, 1 << 40) == MOST
        assert view.read("g")[3 : 3 + len(DATA) - 7] == DATA[7:]


def test_between_filesystems(stack: Stack) -> None:
    """What the kernel says is what the caller gets: for EXDEV fuse.ko copies through its cache."""
    with loop_fs("tmpfs", 4 << 20) as other:
        lower = other / "lower"
        lower.mkdir()
        (lower / "f").write_bytes(DATA)
        stack.lowers.append(lower)
        with stack.open() as view:
            view.create("g")
            with view.opened("f") as source, view.opened("g", os.O_WRONLY) as target:
                assert _native(lower / "f", stack.base) == -errno.EXDEV
                for length in (len(DATA), 1 << 40):
                    with pytest.raises(OSError) as failure:
                        view.copy_range(source, 0, target, 0, length)
                    assert failure.value.errno == errno.EXDEV
            assert view.read("g") == b""


def _native(source: Path, there: Path) -> int:
    with source.open("rb") as f, (there / "native").open("wb") as g:
        try:
            return os.copy_file_range(f.fileno(), g.fileno(), 100)
        except OSError as error:
            return -(error.errno or 0)


def test_a_full_disk() -> None:
    with loop_fs("tmpfs", 2 << 20) as where:
        stack = Stack(where).layers({"f": file("data", size=1 << 20)})
        with stack.open() as view:
            view.create("g")
            with view.opened("f") as source, view.opened("g", os.O_WRONLY) as target:
                assert view.copy_range(source, 0, target, 0, 1 << 20) == 1 << 20
                fallocate(target.fd, 0, 1 << 20, (1 << 20) - (64 << 10))
                with pytest.raises(OSError) as failure:
                    for at in range(2 << 20, 4 << 20, 64 << 10):
                        view.copy_range(source, 0, target, at, 64 << 10)
                assert failure.value.errno == errno.ENOSPC
