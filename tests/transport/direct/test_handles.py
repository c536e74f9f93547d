"""Nodes and handles that were never given out, are another's, or are of another kind."""

from __future__ import annotations

import errno
import functools
import os
from dataclasses import replace

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import EVERYTHING, HANDLES, SILENT, Kernel
from tests.transport.direct.samples import SAMPLES, UNANSWERED, Scene
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

UNKNOWN_NODES = [0, 2, 12345678, (1 << 63) + 1, (1 << 64) - 1]

NO_NODE = frozenset((Opcode.INIT, Opcode.STATFS, Opcode.DESTROY, Opcode.SYNCFS, Opcode.FLUSH))
"""These are about no node, or are refused before that."""
BY_HANDLE = frozenset(
    (
        Opcode.READ,
        Opcode.WRITE,
        Opcode.FSYNC,
        Opcode.FALLOCATE,
        Opcode.LSEEK,
        Opcode.COPY_FILE_RANGE,
        Opcode.COPY_FILE_RANGE_64,
        Opcode.READDIR,
        Opcode.READDIRPLUS,
    )
)
"""These are about a handle, which is another node's then."""
JUST_LETS_GO = frozenset((Opcode.RELEASE, Opcode.RELEASEDIR))


@pytest.mark.parametrize(
    "opcode", sorted(set(SAMPLES) - NO_NODE - JUST_LETS_GO), ids=lambda opcode: opcode.name
)
def test_a_node_that_is_not_known(kernel: Kernel, opcode: Opcode) -> None:
    sample = SAMPLES[opcode](Scene(kernel))
    expected = errno.EBADF if opcode in BY_HANDLE else errno.ESTALE
    for node in UNKNOWN_NODES:
        unique = kernel.send(opcode, node, sample.body)
        if sample.size == UNANSWERED:
            assert unique not in kernel.drain()
        else:
            assert kernel.wait_for(unique).error == expected, node


@pytest.mark.parametrize("opcode", [Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.LSEEK, Opcode.READDIR])
def test_a_node_that_is_not_known_without_handles(start: Start, opcode: Opcode) -> None:
    kernel = start(offered=SILENT)
    scene = Scene(kernel)
    scene.fh = 0
    assert kernel.ask(opcode, 12345678, SAMPLES[opcode](scene).body).error == errno.ESTALE


def test_a_node_that_is_not_known_in_the_arguments(kernel: Kernel) -> None:
    for node in UNKNOWN_NODES:
        for opcode, body in (
            (Opcode.RENAME, p.RENAME_IN.pack(node) + b"file\0new\0"),
            (Opcode.RENAME2, p.RENAME2_IN.pack(node, 0, 0) + b"file\0new\0"),
            (Opcode.LINK, p.LINK_IN.pack(node) + b"new\0"),
        ):
            assert kernel.ask(opcode, body=body).error == errno.ESTALE, (opcode, node)
    assert kernel.lookup(b"file").node


HANDLE_AT = dict.fromkeys(BY_HANDLE, 0) | {
    Opcode.RELEASE: 0,
    Opcode.RELEASEDIR: 0,
    Opcode.SETATTR: 8,
    Opcode.COPY_FILE_RANGE: 24,
}
"""Where in the request the handle stands; of COPY_FILE_RANGE the target's, of the other the source's."""


def with_handle(opcode: Opcode, body: bytes, fh: int) -> bytes:
    at = HANDLE_AT[opcode]
    if opcode is Opcode.SETATTR:
        body = (p.FATTR_FH | p.FATTR_MTIME | p.FATTR_MTIME_NOW).to_bytes(4, "little") + body[4:]
    return body[:at] + fh.to_bytes(8, "little") + body[at + 8 :]


@pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "silent opens"])
@pytest.mark.parametrize("opcode", sorted(HANDLE_AT), ids=lambda opcode: opcode.name)
def test_a_handle_that_was_never_given_out(start: Start, opcode: Opcode, offered: InitFlag) -> None:
    kernel = start(offered=offered)
    sample = SAMPLES[opcode](Scene(kernel))
    without = offered == SILENT and opcode in (Opcode.READDIR, Opcode.READDIRPLUS)
    for fh in (77, 1 << 31, 1 << 63, (1 << 64) - 1):
        body = with_handle(opcode, sample.body, fh)
        assert kernel.ask(opcode, sample.node, body).error == (0 if without else errno.EBADF)


@pytest.mark.parametrize(
    "opcode", sorted(set(HANDLE_AT) - {Opcode.RELEASE, Opcode.RELEASEDIR}), ids=lambda o: o.name
)
def test_a_handle_of_another_node(kernel: Kernel, opcode: Opcode) -> None:
    """Of a file and of a directory each: those count from one, too."""
    scene = Scene(kernel)
    sample = SAMPLES[opcode](scene)
    other = kernel.node("dir/inner")
    handles = [kernel.open(other), kernel.opendir(scene.directory), kernel.opendir(scene.empty)]
    handles.append(kernel.open(kernel.node("file"), os.O_RDWR))
    for fh in handles:
        assert kernel.ask(opcode, sample.node, with_handle(opcode, sample.body, fh)).error == errno.EBADF
    assert kernel.read(scene.mine, scene.fh, size=200) == b"0123456789" * 10


def test_a_directory_s_handle_is_no_file_s(kernel: Kernel) -> None:
    """The first handle of each kind, so that they have the same number."""
    made, fh = kernel.create(b"new")
    dirfh = kernel.opendir()
    assert kernel.write(made.node, fh, b"data") == 4
    assert kernel.ask(Opcode.READ, p.ROOT_ID, p.READ_IN.pack(dirfh, 0, 10, 0, 0, 0, 0)).error == errno.EBADF
    assert kernel.ask(Opcode.READDIR, made.node, p.READ_IN.pack(fh, 0, 4096, 0, 0, 0, 0)).error == errno.EBADF
    kernel.release(p.ROOT_ID, dirfh, Opcode.RELEASEDIR)
    assert kernel.read(made.node, fh) == b"data"


def test_a_handle_is_released_once(kernel: Kernel) -> None:
    made, fh = kernel.create(b"new")
    assert kernel.session.open_handles() == 1
    kernel.release(made.node, fh)
    assert kernel.session.open_handles() == 0
    release = p.RELEASE_IN.pack(fh, 0, 0, 0)
    assert kernel.ask(Opcode.RELEASE, made.node, release).error == errno.EBADF
    assert kernel.ask(Opcode.READ, made.node, p.READ_IN.pack(fh, 0, 10, 0, 0, 0, 0)).error == errno.EBADF


@pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "silent opens"])
def test_whether_the_kernel_asks_for_opens_is_told(start: Start, offered: InitFlag) -> None:
    kernel = start(offered=offered)
    kernel.create(b"new")
    assert kernel.session.open_handles() == (None if offered == SILENT else 1)


def test_a_handle_is_not_given_out_twice(kernel: Kernel) -> None:
    made, first = kernel.create(b"new")
    kernel.release(made.node, first)
    assert kernel.open(made.node) != first


def test_a_handle_that_can_only_read_does_not_write(kernel: Kernel) -> None:
    made = kernel.made(b"new", data=b"data")
    fh = kernel.open(made.node, os.O_RDONLY)
    body = p.WRITE_IN.pack(fh, 0, 1, 0, 0, 0, 0) + b"x"
    assert kernel.ask(Opcode.WRITE, made.node, body).error == errno.EBADF
    body = p.FALLOCATE_IN.pack(fh, 0, 10, 0, 0)
    assert kernel.ask(Opcode.FALLOCATE, made.node, body).error == errno.EBADF
    assert kernel.read(made.node, fh) == b"data"


WRONG_KIND: list[tuple[Opcode, str, bytes, int]] = [
    (Opcode.OPEN, "dir", p.OPEN_IN.pack(0, 0), errno.EISDIR),
    (Opcode.OPEN, "link", p.OPEN_IN.pack(0, 0), errno.EINVAL),
    (Opcode.OPEN, "fifo", p.OPEN_IN.pack(os.O_WRONLY, 0), errno.EINVAL),
    (Opcode.OPENDIR, "file", p.OPEN_IN.pack(0, 0), errno.ENOTDIR),
    (Opcode.LOOKUP, "file", b"x\0", errno.ENOTDIR),
    (Opcode.LOOKUP, "file", b"..\0", errno.ENOTDIR),
    (Opcode.MKDIR, "link", p.MKDIR_IN.pack(0o755, 0) + b"x\0", errno.ENOTDIR),
    (Opcode.READLINK, "file", b"", errno.EINVAL),
    (Opcode.READLINK, "dir", b"", errno.EINVAL),
    (Opcode.FSYNCDIR, "file", p.FSYNC_IN.pack(0, 0, 0), errno.ENOTDIR),
    (
        Opcode.SETATTR,
        "dir",
        p.SETATTR_IN.pack(p.FATTR_SIZE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        errno.EISDIR,
    ),
    (
        Opcode.SETATTR,
        "link",
        p.SETATTR_IN.pack(p.FATTR_SIZE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        errno.EINVAL,
    ),
]


@pytest.mark.parametrize(
    ("opcode", "path", "body", "error"), WRONG_KIND, ids=[f"{row[0].name} {row[1]}" for row in WRONG_KIND]
)
def test_a_node_of_the_wrong_kind(kernel: Kernel, opcode: Opcode, path: str, body: bytes, error: int) -> None:
    assert kernel.ask(opcode, kernel.node(path), body).error == error
    assert kernel.lookup(b"file").size == 10


@pytest.mark.parametrize("timeout", [None, 1.0], ids=["static", "timeout"])
def test_a_removed_file_lives_on_by_its_handle(
    start: Start, config: UnionConfig, timeout: float | None
) -> None:
    kernel = start(config=replace(config, timeout=timeout))
    made, fh = kernel.create(b"new")
    kernel.write(made.node, fh, b"data")
    kernel.body(Opcode.UNLINK, body=b"new\0")
    kernel.forget_all()
    assert kernel.read(made.node, fh) == b"data"
    kernel.release(made.node, fh)
    assert kernel.table() == {p.ROOT_ID}
    assert kernel.ask(Opcode.GETATTR, made.node, p.GETATTR_IN.pack(0, 0, 0)).error == errno.ESTALE


@pytest.mark.parametrize(
    ("offered", "minor", "upper", "error"),
    [
        (EVERYTHING, p.KERNEL_MINOR_VERSION, True, 0),
        (EVERYTHING & ~InitFlag.NO_OPEN_SUPPORT, 31, True, 0),
        (EVERYTHING, p.KERNEL_MINOR_VERSION, False, errno.ENOSYS),
        (SILENT, p.KERNEL_MINOR_VERSION, True, errno.ENOSYS),
    ],
    ids=["cached", "cached, Linux 5.4", "nothing is written", "written at once"],
)
def test_close_is_answered_where_writes_are_cached(
    start: Start, config: UnionConfig, offered: InitFlag, minor: int, upper: bool, error: int
) -> None:
    """What of them can be sent to no daemon any more, the kernel does not mention: its FLUSH must fail."""
    if not upper:
        start = functools.partial(Kernel, replace(config, upper=None, work=None))
    kernel = start(offered=offered, minor=minor)
    node = kernel.lookup(b"file").node
    opened = kernel.ask(Opcode.OPEN, node, p.OPEN_IN.pack(os.O_RDONLY, 0))
    fh = 0 if opened.error else p.OPEN_OUT.unpack(opened.body)[0]
    assert kernel.ask(Opcode.FLUSH, node, p.FLUSH_IN.pack(fh, 0, 0, 0)).error == error
    if not upper:
        kernel.end()
