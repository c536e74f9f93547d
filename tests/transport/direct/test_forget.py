"""Lookups are counted as the kernel counts them, and forgetting is never answered."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import HANDLES, SILENT, Kernel
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

ROOT = p.ROOT_ID


def tmpfile(kernel: Kernel) -> None:
    answer = kernel.ask(Opcode.TMPFILE, body=p.CREATE_IN.pack(os.O_RDWR, 0o600, 0, 0) + b"/\0")
    if answer.error == errno.EOPNOTSUPP:
        pytest.skip("no O_TMPFILE on this filesystem")
    entry = kernel.entry(answer.body)
    kernel.release(entry.node, p.OPEN_OUT.unpack_from(answer.body, p.ENTRY_OUT.size)[0])


def symlink(kernel: Kernel) -> None:
    kernel.entry(kernel.body(Opcode.SYMLINK, body=b"new\0target\0"))


def mknod(kernel: Kernel) -> None:
    kernel.entry(kernel.body(Opcode.MKNOD, body=p.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"new\0"))


def opendir(kernel: Kernel, node: int = ROOT) -> int:
    opened = kernel.ask(Opcode.OPENDIR, node, p.OPEN_IN.pack(0, 0))
    return 0 if opened.error else p.OPEN_OUT.unpack(opened.body)[0]


def readdirplus(kernel: Kernel) -> None:
    directory = kernel.node("dir")
    assert {entry.name for entry in kernel.readdirplus(opendir(kernel, directory), directory)} > {b"inner"}
    kernel.readdirplus(opendir(kernel))


def readdirplus_in_pieces(kernel: Kernel) -> None:
    fh, cookie, seen = opendir(kernel), 0, 0
    while listed := kernel.readdirplus(fh, cookie=cookie, size=200):
        cookie = listed[-1].cookie
        seen += len(listed)
    assert seen == 7


def readdir(kernel: Kernel) -> None:
    kernel.readdir(opendir(kernel))


def renamed(kernel: Kernel) -> None:
    kernel.node("dir/inner")
    kernel.lookup(b"file")
    kernel.lookup(b"link")
    kernel.body(Opcode.RENAME2, body=p.RENAME2_IN.pack(ROOT, 2, 0) + b"file\0link\0")
    kernel.lookup(b"file")


def removed(kernel: Kernel) -> None:
    kernel.made(b"new")
    kernel.body(Opcode.UNLINK, body=b"new\0")
    kernel.mkdir(b"new")
    kernel.body(Opcode.RMDIR, body=b"new\0")


ACTS: list[Callable[[Kernel], object]] = [
    lambda k: k.lookup(b"file"),
    lambda k: [k.lookup(b"file") for _ in range(5)],
    lambda k: k.lookup(b"missing"),
    lambda k: k.node("dir/sub"),
    lambda k: k.mkdir(b"new"),
    lambda k: k.made(b"new"),
    lambda k: k.link(k.made(b"new").node, b"other"),
    lambda k: k.link(k.node("file"), b"other"),
    tmpfile,
    symlink,
    mknod,
    readdir,
    readdirplus,
    readdirplus_in_pieces,
    renamed,
    removed,
]
NAMES = [
    "lookup",
    "lookups",
    "miss",
    "deep",
    "mkdir",
    "create",
    "link",
    "link of a lower",
    "tmpfile",
    "symlink",
    "mknod",
    "readdir",
    "readdirplus",
    "readdirplus in pieces",
    "rename",
    "remove",
]

MANNERS = [(HANDLES, None), (SILENT, None), (HANDLES, 1.0)]


@pytest.mark.parametrize(("offered", "timeout"), MANNERS, ids=["handles", "silent opens", "timeout"])
@pytest.mark.parametrize("act", ACTS, ids=NAMES)
def test_nothing_is_left_when_all_is_forgotten(
    start: Start,
    config: UnionConfig,
    act: Callable[[Kernel], object],
    offered: InitFlag,
    timeout: float | None,
) -> None:
    kernel = start(config=replace(config, timeout=timeout), offered=offered)
    before = kernel.table()
    act(kernel)
    known = kernel.known.copy()
    assert set(known) <= kernel.table()
    # One lookup less than there were: every node must still be known.
    for node, count in known.items():
        if count > 1:
            kernel.forget(node, count - 1)
            kernel.known[node] = 1
    assert set(known) <= kernel.table()
    for fh in list(kernel.session._dir_ops._dirs):  # type: ignore[union-attr]
        kernel.release(ROOT, fh, Opcode.RELEASEDIR)
    kernel.forget_all()
    assert kernel.table() == before == {ROOT}


MORE_THAN_KNOWN = [2, 1000, 1 << 32, (1 << 64) - 1]


@pytest.mark.parametrize("count", MORE_THAN_KNOWN)
def test_more_lookups_than_there_were(kernel: Kernel, count: int) -> None:
    node = kernel.lookup(b"file").node
    kernel.forget(node, count)
    assert node not in kernel.table()
    assert kernel.lookup(b"file").node == node
    kernel.forget(node, 1)
    assert node not in kernel.table()


def test_none(kernel: Kernel) -> None:
    node = kernel.lookup(b"file").node
    kernel.forget(node, 0)
    assert node in kernel.table()


@pytest.mark.parametrize("count", [1, 5, (1 << 64) - 1])
def test_the_root_is_never_forgotten(kernel: Kernel, count: int) -> None:
    kernel.forget(ROOT, count)
    assert kernel.lookup(b"file").size == 10
    assert ROOT in kernel.table()


@pytest.mark.parametrize("node", [0, 2, 99, 1 << 63, (1 << 63) + 1, (1 << 64) - 1])
def test_a_node_that_is_not_known(kernel: Kernel, node: int) -> None:
    kernel.forget(node, 1)
    one = p.FORGET_ONE.pack(node, 1)
    kernel.send(Opcode.BATCH_FORGET, 0, p.BATCH_FORGET_IN.pack(1, 0) + one)
    assert not kernel.drain()


BATCHES: list[tuple[str, int, int, bytes, list[int]]] = [
    ("right", 3, 3, b"", [0, 1, 2]),
    ("none", 0, 0, b"", []),
    ("fewer counted than sent", 1, 3, b"", [0]),
    ("more counted than sent", 4, 3, b"", []),
    ("many more counted than sent", 2**32 - 1, 3, b"", []),
    ("a piece of a further one", 3, 3, bytes(15), [0, 1, 2]),
    ("a piece of the last", 4, 3, bytes(15), []),
    ("counted but not sent", 3, 0, b"", []),
]


@pytest.mark.parametrize(("name", "count", "sent", "more", "gone"), BATCHES, ids=[row[0] for row in BATCHES])
def test_batches(
    kernel: Kernel,
    caplog: pytest.LogCaptureFixture,
    name: str,
    count: int,
    sent: int,
    more: bytes,
    gone: list[int],
) -> None:
    """A batch that is not whole is not heeded: better an inode too many than one too few."""
    nodes = [kernel.lookup(path).node for path in (b"file", b"dir", b"link")]
    ones = b"".join(p.FORGET_ONE.pack(node, 1) for node in nodes[:sent])
    kernel.send(Opcode.BATCH_FORGET, 0, p.BATCH_FORGET_IN.pack(count, 0) + ones + more)
    assert not kernel.drain(), "a FORGET was answered"
    assert kernel.table() == {ROOT, *nodes} - {nodes[index] for index in gone}
    assert ("malformed BATCH_FORGET ignored" in caplog.text) == (count > sent)


def test_the_same_node_twice_in_a_batch(kernel: Kernel) -> None:
    node = kernel.lookup(b"file").node
    kernel.lookup(b"file")
    kernel.lookup(b"file")
    ones = p.FORGET_ONE.pack(node, 1) * 2
    kernel.send(Opcode.BATCH_FORGET, 0, p.BATCH_FORGET_IN.pack(2, 0) + ones)
    assert node in kernel.table()
    kernel.forget(node, 1)
    assert node not in kernel.table()


def test_children_outlive_no_parent(kernel: Kernel) -> None:
    """The kernel may forget in any order; a parent stays while a child is known."""
    inner = kernel.node("dir/inner")
    directory = kernel.lookup(b"dir").node
    kernel.forget(directory, 2)
    assert kernel.table() == {ROOT, directory, inner}
    kernel.forget(inner, 1)
    assert kernel.table() == {ROOT}


def test_an_open_file_is_not_forgotten(kernel: Kernel) -> None:
    made, fh = kernel.create(b"new")
    kernel.forget(made.node, 1)
    assert kernel.write(made.node, fh, b"data") == 4
    kernel.release(made.node, fh)
    assert kernel.table() == {ROOT}


def test_an_entry_that_does_not_fit_is_not_counted(kernel: Kernel) -> None:
    """The kernel has never seen it."""
    fh = kernel.opendir()
    first = kernel.readdirplus(fh, size=152 * 2 + 24)
    assert [entry.name for entry in first] == [b".", b".."]
    assert kernel.table() == {ROOT}
    kernel.release(ROOT, fh, Opcode.RELEASEDIR)


def test_many(kernel: Kernel) -> None:
    """A round of forgetting gives memory back, and the table goes on."""
    directory = kernel.mkdir(b"new").node
    body = p.MKNOD_IN.pack(0o100644, 0, 0, 0)
    for number in range(1100):
        kernel.entry(kernel.body(Opcode.MKNOD, directory, body + b"%d\0" % number))
    assert len(kernel.table()) == 1102
    kernel.forget_all()
    assert kernel.table() == {ROOT}
    assert kernel.node("new/1023")
