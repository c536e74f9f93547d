"""A file that was copied up while it was read by passthrough has two nodes: counts, and what they do."""

from __future__ import annotations

import errno
import os

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import EVERYTHING, Entry, Kernel
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.nodes import FIRST_EXTRA_NODE
from unionfs.transport.direct.protocol import Opcode
from unionfs.transport.session import SessionOptions

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as passthrough does")

ROOT = p.ROOT_ID


class Twice:
    """The lower file `file`, open for reading by its old node, and looked up anew as a node of upper's."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.old = kernel.lookup(b"file").node
        self.reader = kernel.open(self.old)
        write = p.OPEN_IN.pack(os.O_RDWR, 0)
        assert kernel.ask(Opcode.OPEN, self.old, write).error == errno.ESTALE
        self.entry: Entry = kernel.lookup(b"file")
        self.new = self.entry.node
        self.writer = kernel.open(self.new, os.O_RDWR)


@pytest.fixture
def twice(start: Start, backing: dict[int, os.stat_result]) -> Twice:
    return Twice(start(offered=EVERYTHING, options=SessionOptions(passthrough="on")))


def test_the_new_node(twice: Twice) -> None:
    """The inode number is the same; the kernel may keep no attributes, which change by either node."""
    assert twice.new > FIRST_EXTRA_NODE
    assert twice.entry.ino == twice.old
    assert (twice.entry.attr_valid, twice.entry.entry_valid) == (0, 10**9)


def nodes_left(twice: Twice) -> tuple[dict[int, int], dict[int, int]]:
    file_ops = twice.kernel.session._file_ops
    assert file_ops is not None
    return file_ops.nodes.inos, file_ops.nodes.current


def test_both_are_forgotten(twice: Twice) -> None:
    kernel = twice.kernel
    kernel.release(twice.new, twice.writer)
    kernel.release(twice.old, twice.reader)
    kernel.forget_all()
    assert kernel.table() == {ROOT}
    assert nodes_left(twice) == ({}, {})
    assert kernel.lookup(b"file").node == twice.old, "its own number again"


@pytest.mark.parametrize("first", ["old", "new"])
def test_one_is_forgotten_first(twice: Twice, first: str) -> None:
    kernel = twice.kernel
    kernel.release(twice.new, twice.writer)
    kernel.release(twice.old, twice.reader)
    one, other = (twice.old, twice.new) if first == "old" else (twice.new, twice.old)
    kernel.forget(one, kernel.known.pop(one))
    assert kernel.table() == {ROOT, twice.old}
    assert kernel.ask(Opcode.GETATTR, other, p.GETATTR_IN.pack(0, 0, 0)).error == 0
    assert kernel.lookup(b"file").node == twice.new, "as long as the old one may be known"
    kernel.forget_all()
    assert kernel.table() == {ROOT}
    assert nodes_left(twice) == ({}, {})


@pytest.mark.parametrize("count", [100, (1 << 64) - 1])
def test_more_lookups_than_there_were(twice: Twice, count: int) -> None:
    """The open files hold the inode; afterwards nothing is left."""
    kernel = twice.kernel
    kernel.forget(twice.new, count)
    kernel.forget(twice.old, count)
    assert kernel.write(twice.new, twice.writer, b"UPPER") == 5
    kernel.release(twice.new, twice.writer)
    kernel.release(twice.old, twice.reader)
    kernel.known.clear()
    assert kernel.table() == {ROOT}
    assert nodes_left(twice) == ({}, {})
    kernel.forget(twice.new, 1)
    assert kernel.lookup(b"file").node == twice.old
    assert not kernel.drain()


def test_a_release_that_comes_after_the_last_forget(twice: Twice) -> None:
    """fuse.ko has queues of their own for both."""
    kernel = twice.kernel
    kernel.forget_all()
    kernel.release(twice.old, twice.reader)
    kernel.release(twice.new, twice.writer)
    assert kernel.table() == {ROOT}
    assert nodes_left(twice) == ({}, {})


def test_either_is_the_file(twice: Twice) -> None:
    """Whatever is about the file and not about an open, by the new node."""
    kernel = twice.kernel
    kernel.link(twice.new, b"other")
    mode = p.SETATTR_IN.pack(p.FATTR_MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o604, 0, 0, 0, 0)
    kernel.body(Opcode.SETATTR, twice.new, mode)
    kernel.body(Opcode.SETXATTR, twice.new, p.SETXATTR_IN.pack(1, 0, 0, 0) + b"user.x\0v")
    for node in (twice.old, twice.new):
        attributes = p.ATTR_OUT.unpack(kernel.body(Opcode.GETATTR, node, p.GETATTR_IN.pack(0, 0, 0)))
        assert attributes[0] == 0, "how long they may be kept"
        assert attributes[12:15] == (0o100604, 2, os.geteuid())
        value = kernel.body(Opcode.GETXATTR, node, p.GETXATTR_IN.pack(9, 0) + b"user.x\0")
        assert value == b"v"


def test_a_copy_into_the_new_node(twice: Twice) -> None:
    kernel = twice.kernel
    made, fh = kernel.create(b"new")
    kernel.write(made.node, fh, b"abc")
    body = p.COPY_FILE_RANGE_IN.pack(fh, 0, twice.new, twice.writer, 0, 3, 0)
    assert p.WRITE_OUT.unpack(kernel.body(Opcode.COPY_FILE_RANGE, made.node, body))[0] == 3
    assert kernel.read(twice.new, twice.writer) == b"abcer data"


def test_handles_are_of_either(twice: Twice) -> None:
    """The kernel names the node that was opened; what matters is that it is this file."""
    kernel = twice.kernel
    inner = kernel.node("dir/inner")
    assert kernel.read(twice.new, twice.writer) == b"lower data"
    body = p.READ_IN.pack(twice.writer, 0, 10, 0, 0, 0, 0)
    assert kernel.ask(Opcode.READ, inner, body).error == errno.EBADF


def test_a_listing_names_the_new_node(twice: Twice) -> None:
    """And counts it, as a lookup does."""
    kernel = twice.kernel
    listed = {entry.name: entry for entry in kernel.readdirplus()}
    assert (listed[b"file"].node, listed[b"file"].ino) == (twice.new, twice.old)
    kernel.release(twice.new, twice.writer)
    kernel.release(twice.old, twice.reader)
    kernel.forget_all()
    assert kernel.table() == {ROOT}
    assert nodes_left(twice) == ({}, {})


def test_backing_files_are_let_go(twice: Twice, backing: dict[int, os.stat_result]) -> None:
    kernel = twice.kernel
    assert len(backing) == 2
    kernel.release(twice.new, twice.writer)
    kernel.release(twice.old, twice.reader)
    kernel.forget_all()
    assert backing == {}
