"""Files of a directory that are opened in its order and are not in memory: the next ones are read ahead."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mount.rig import eventually
from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import EVERYTHING, Kernel
from tests.transport.direct.test_stale import MODE
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.inode import File
from unionfs.transport.direct import lower_reads, sibling_readahead
from unionfs.transport.direct import protocol as p
from unionfs.transport.session import SessionOptions

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as passthrough does")

COUNT = 40
NAMES = [f"{number:02}" for number in range(COUNT)]


class Disk:
    """Which files are in memory: those that were read, or read ahead. Each holds its own name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead: list[str] = []
        self.memory: set[str] = set()
        self.waits = 0
        read, read_beginning = lower_reads._read, sibling_readahead.read_beginning

        def read_now(fd: int, room: memoryview) -> int:
            count = read(fd, room)
            name = bytes(room[:2]).decode()
            self.waits += name not in self.memory
            known = name in self.memory
            self.memory.add(name)
            return count if known else 0

        def ahead(directory: int, name: bytes, length: int) -> None:
            read_beginning(directory, name, length)
            self.ahead.append(name.decode())
            self.memory.add(name.decode())

        monkeypatch.setattr(lower_reads, "_read_cached", read_now)
        monkeypatch.setattr(sibling_readahead, "read_beginning", ahead)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def walked(start: Start, config: UnionConfig, layers: Path, backing: object) -> Kernel:
    """A union with directories `many` and `next`, whose files are all known, by name."""
    for directory in ("many", "next"):
        (layers / "lower" / directory).mkdir()
        for name in NAMES:
            (layers / "lower" / directory / name).write_text(name)
    kernel = start(config=replace(config), offered=EVERYTHING, options=SessionOptions())
    for directory in ("many", "next"):
        for name in NAMES:
            kernel.node(f"{directory}/{name}")
    return kernel


def open_each(kernel: Kernel, disk: Disk, names: list[str], directory: str = "many") -> None:
    """Open one file after the other, each when nothing is under way any more."""
    for name in names:
        kernel.body(p.Opcode.OPEN, kernel.node(f"{directory}/{name}"), p.OPEN_IN.pack(os.O_RDONLY, 0))
        pool = kernel.session._server.readers
        assert eventually(pool.submit(int).done)


def test_a_walk_waits_for_the_disk_at_its_beginning_only(walked: Kernel, disk: Disk) -> None:
    open_each(walked, disk, NAMES)
    assert disk.waits < COUNT // 2
    assert len(set(disk.ahead)) == len(disk.ahead), "read twice"
    disk.memory.clear()
    disk.waits = 0
    open_each(walked, disk, NAMES, "next")
    assert disk.waits < COUNT // 4, "a walk goes on in the next directory"


def test_never_more_than_a_batch_in_vain(walked: Kernel, disk: Disk) -> None:
    open_each(walked, disk, NAMES[:10])
    assert set(disk.ahead) <= set(NAMES[:10] + NAMES[10:26])


def test_what_is_in_memory_is_not_read_ahead(walked: Kernel, disk: Disk) -> None:
    disk.memory.update(NAMES)
    open_each(walked, disk, NAMES)
    assert disk.ahead == []


def test_opens_in_no_order_are_no_walk(walked: Kernel, disk: Disk) -> None:
    open_each(walked, disk, NAMES[::-2])
    assert disk.ahead == []


def test_files_that_are_gone_or_changed_cost_nothing(walked: Kernel, disk: Disk, layers: Path) -> None:
    open_each(walked, disk, NAMES[:5])
    walked.body(p.Opcode.UNLINK, walked.node("many"), b"30\0")
    walked.body(p.Opcode.SETATTR, walked.node("many/32"), MODE)
    (layers / "lower/many/34").unlink()
    open_each(walked, disk, [name for name in NAMES[5:34] if name != "30"])
    assert "34" in disk.ahead, "tried, and no harm done"
    assert not {"30", "32"} & set(disk.ahead)


def test_a_file_without_a_name_has_no_siblings(walked: Kernel, disk: Disk) -> None:
    """Opened by /proc/PID/fd, say, after it was removed."""
    node = walked.node("many/05")
    held, *_ = p.OPEN_OUT.unpack(walked.body(p.Opcode.OPEN, node, p.OPEN_IN.pack(os.O_RDONLY, 0)))
    walked.body(p.Opcode.UNLINK, walked.node("many"), b"05\0")
    walked.release(node, held)
    inode = walked.union.inode(node)
    assert inode.parent is None
    readahead = sibling_readahead.SiblingReadahead(walked.session._server.readers, 4096)
    assert isinstance(inode, File)
    readahead.opened(inode, cold=True)
    assert disk.ahead == []
