"""Which lower files are read by passthrough, and which are given to the kernel's cache with the OPEN."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import EVERYTHING, Kernel
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import lower_reads
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.lower_reads import LARGE_FILE, STORE_MAX, is_unchanging
from unionfs.transport.session import SessionOptions

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as passthrough does")

Backings = dict[int, os.stat_result]


def elf(kind: int, order: int = 1) -> bytes:
    """The beginning of an ELF file of this e_type; *order* as EI_DATA has it: 1 little, 2 big endian."""
    number = kind.to_bytes(2, "little" if order == 1 else "big")
    return b"\x7fELF\2" + bytes([order]) + bytes(10) + number + bytes(100)


UNCHANGING = {
    "program": (elf(2), 9000),
    "library": (elf(3), 9000),
    "big-endian library": (elf(3, 2), 9000),
    "image": (b"\x89PNG\0\0", LARGE_FILE),
    "sparse": (bytes(4096), 100 * LARGE_FILE),
}
MAY_CHANGE = {
    "empty": (b"", 0),
    "object file": (elf(1), 100 * LARGE_FILE),
    "cut short": (b"\x7fELF", 4),
    "small binary": (b"\x89PNG\0\0", LARGE_FILE - 1),
    "large text": (b"a line\n" * 500, 100 * LARGE_FILE),
    "SQLite": (b"SQLite format 3\0" + bytes(100), 100 * LARGE_FILE),
    "rpm": (b"RpmP" + bytes(100), 100 * LARGE_FILE),
    "journal": (b"LPKSHHRH" + bytes(100), 100 * LARGE_FILE),
    "disk image": (b"QFI\xfb" + bytes(100), 100 * LARGE_FILE),
    "GDBM": (bytes.fromhex("cf9a5713") + bytes(100), 100 * LARGE_FILE),
    "Berkeley DB": (bytes(12) + bytes.fromhex("62310500") + bytes(100), 100 * LARGE_FILE),
    "LMDB": (bytes(16) + bytes.fromhex("dec0efbe") + bytes(100), 100 * LARGE_FILE),
}


@pytest.mark.parametrize("name", UNCHANGING)
def test_what_is_not_written_in_place(name: str) -> None:
    assert is_unchanging(*UNCHANGING[name])


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_what_may_be_written_while_it_is_read(name: str) -> None:
    assert not is_unchanging(*MAY_CHANGE[name])


# --- with a kernel ------------------------------------------------------------------------------------


def opened(kernel: Kernel, node: int, flags: int = os.O_RDONLY) -> tuple[int, int, int]:
    """What an OPEN is answered: handle, flags and backing file."""
    fh, answered, backing = p.OPEN_OUT.unpack(kernel.body(p.Opcode.OPEN, node, p.OPEN_IN.pack(flags, 0)))
    return fh, answered, backing


def stored(kernel: Kernel) -> list[tuple[int, int, bytes]]:
    """What was put into the kernel's cache since it was asked last: node, offset and data."""
    notices = [notice.body for notice in kernel.notices if notice.error == p.NOTIFY_STORE]
    kernel.notices = [notice for notice in kernel.notices if notice.error != p.NOTIFY_STORE]
    found = []
    for body in notices:
        node, offset, size, _ = p.STORE_OUT.unpack_from(body)
        data = body[p.STORE_OUT.size :]
        assert len(data) == size
        found.append((node, offset, data))
    return found


@pytest.fixture
def default(start: Start, backing: Backings) -> Kernel:
    return start(offered=EVERYTHING, options=SessionOptions())


@needs_root
def test_a_small_file_comes_with_its_first_open(default: Kernel, backing: Backings) -> None:
    node = default.node("file")
    fh, flags, number = opened(default, node)
    assert flags & p.FOPEN_KEEP_CACHE
    assert not flags & p.FOPEN_PASSTHROUGH
    assert number == 0
    assert stored(default) == [(node, 0, b"lower data")]
    second, *_ = opened(default, node)
    assert stored(default) == []
    for handle in (fh, second):
        assert default.read(node, handle) == b"lower data"
        default.release(node, handle)
    opened(default, node)
    assert stored(default) == [], "the kernel has it still"
    assert backing == {}


@needs_root
def test_it_comes_again_when_the_kernel_has_forgotten_the_file(default: Kernel) -> None:
    fh, *_ = opened(default, node := default.node("file"))
    default.release(node, fh)
    stored(default)
    default.forget_all()
    opened(default, again := default.node("file"))
    assert stored(default) == [(again, 0, b"lower data")]


@needs_root
@pytest.mark.parametrize(("size", "pushed"), [(0, 0), (STORE_MAX, 1), (STORE_MAX + 1, 0)])
def test_larger_files_are_read_by_the_kernel(default: Kernel, layers: Path, size: int, pushed: int) -> None:
    (layers / "lower/sized").write_bytes(b"x" * size)
    node = default.node("sized")
    fh, flags, _ = opened(default, node)
    assert flags & p.FOPEN_KEEP_CACHE
    assert [len(data) for _, _, data in stored(default)] == [size] * pushed
    assert default.read(node, fh, max(size - 10, 0), 20) == b"x" * min(size, 10)


@needs_root
def test_a_program_is_read_by_passthrough(default: Kernel, layers: Path, backing: Backings) -> None:
    (layers / "lower/program").write_bytes(elf(3))
    node = default.node("program")
    fh, flags, number = opened(default, node)
    assert flags & p.FOPEN_PASSTHROUGH
    assert backing[number].st_size == len(elf(3))
    default.release(node, fh)
    assert opened(default, node)[1:] == (flags, number)
    assert stored(default) == []


@needs_root
def test_writers_and_old_readers_share_the_node(default: Kernel, backing: Backings, layers: Path) -> None:
    node = default.node("file")
    reader, *_ = opened(default, node)
    writer, flags, number = opened(default, node, os.O_RDWR)
    assert not flags & p.FOPEN_PASSTHROUGH
    assert number == 0
    default.write(node, writer, b"UPPER")
    assert default.read(node, reader) == b"UPPER data"
    late, flags, _ = opened(default, node)
    assert not flags & p.FOPEN_PASSTHROUGH
    assert default.read(node, late) == b"UPPER data"
    for fh in (reader, writer, late):
        default.release(node, fh)
    # No reader of the lower file is left: by passthrough, and the kernel drops what it has in its cache.
    fh, flags, number = opened(default, node)
    assert flags & p.FOPEN_PASSTHROUGH
    assert not flags & p.FOPEN_KEEP_CACHE
    assert backing[number].st_ino == (layers / "upper/file").stat().st_ino


@needs_root
@pytest.mark.parametrize(
    ("options", "passthrough", "pushed"),
    [
        (SessionOptions(passthrough="on"), True, 0),
        (SessionOptions(passthrough="on", coherent=True), False, 1),
        (SessionOptions(coherent=True), False, 1),
    ],
)
def test_by_option_all_or_none(
    start: Start, backing: Backings, layers: Path, options: SessionOptions, passthrough: bool, pushed: int
) -> None:
    kernel = start(offered=EVERYTHING, options=options)
    (layers / "lower/program").write_bytes(elf(3))
    for name in ("file", "program"):
        _, flags, _ = opened(kernel, kernel.node(name))
        assert bool(flags & p.FOPEN_PASSTHROUGH) is passthrough
        assert len(stored(kernel)) == pushed


@needs_root
def test_layers_that_change_are_looked_at_each_time(
    start: Start, config: UnionConfig, backing: Backings, layers: Path
) -> None:
    kernel = start(config=replace(config, timeout=1.0), offered=EVERYTHING, options=SessionOptions())
    node = kernel.node("file")
    fh, flags, _ = opened(kernel, node)
    assert not flags & (p.FOPEN_KEEP_CACHE | p.FOPEN_PASSTHROUGH)
    assert stored(kernel) == []
    kernel.release(node, fh)
    (layers / "lower/file").write_bytes(elf(3))
    _, flags, _ = opened(kernel, node)
    assert flags & p.FOPEN_PASSTHROUGH


# --- from a slow disk ---------------------------------------------------------------------------------


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in the page cache."""
    monkeypatch.setattr(lower_reads, "_read_cached", lambda fd, room: 0)


@needs_root
def test_a_worker_reads_from_a_slow_disk(cold: None, default: Kernel) -> None:
    """It begins as if the disk were slow."""
    node = default.node("file")
    ask = p.OPEN_IN.pack(os.O_RDONLY, 0)
    both = [default.send(p.Opcode.OPEN, node, ask) for _ in range(2)]
    answers = [p.OPEN_OUT.unpack(default.wait_for(unique).body) for unique in both]
    assert stored(default) == [(node, 0, b"lower data")]
    for fh, flags, _ in answers:
        assert flags & p.FOPEN_KEEP_CACHE
        assert default.read(node, fh) == b"lower data"
        default.release(node, fh)


@needs_root
@pytest.mark.usefixtures("cold")
def test_the_file_is_copied_up_while_a_worker_reads(
    default: Kernel, backing: Backings, layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is the lower's, and must not get into the cache of what is upper's by now."""
    node = default.node("file")
    plain: Callable[[int, memoryview], int] = lower_reads._read

    def read(fd: int, room: memoryview) -> int:
        with default.session._server.lock:
            union = default.union
            union.copy_up(union.inode(node).ino)
        return plain(fd, room)

    monkeypatch.setattr(lower_reads, "_read", read)
    _, flags, number = opened(default, node)
    assert flags & p.FOPEN_PASSTHROUGH
    assert backing[number].st_ino == (layers / "upper/file").stat().st_ino
    assert stored(default) == []


@needs_root
@pytest.mark.usefixtures("cold")
def test_a_read_error_is_the_readers(
    default: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(fd: int, buffers: object, offset: int, flags: int = 0) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    node = default.node("file")
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", fails)
        fh, flags, _ = opened(default, node)
        assert flags & p.FOPEN_KEEP_CACHE
        assert stored(default) == []
    assert "reading the start of a lower file failed" in caplog.text
    assert default.read(node, fh) == b"lower data"
