"""Attributes that an operation on another object has changed: the kernel is told before its answer."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from tests.mount.rig import eventually
from tests.transport.direct.conftest import Gate, Start
from tests.transport.direct.kernel import PATIENCE, Answer, Kernel
from unionfs.overlay.config import UnionConfig
from unionfs.transport.direct import interrupts
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.file_ops import FS_IOC_SETFLAGS
from unionfs.transport.direct.protocol import Opcode

MODE = p.SETATTR_IN.pack(p.FATTR_MODE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o600, 0, 0, 0, 0)


def told(notices: list[Answer]) -> list[int]:
    """The nodes whose attributes the kernel shall ask for again."""
    nodes = []
    for notice in notices:
        assert notice.error == p.NOTIFY_INVAL_INODE
        node, offset, length = p.INVAL_INODE_OUT.unpack(notice.body)
        # A negative offset leaves the data in the cache.
        assert offset < 0
        assert length == 0
        nodes.append(node)
    return nodes


def test_a_parent_that_is_copied_up_along(kernel: Kernel) -> None:
    """A merged directory has one link only, and what is placed in a directory changes its change time."""
    directory, inner = kernel.node("dir"), kernel.node("dir/inner")
    unique = kernel.send(Opcode.SETATTR, inner, MODE)
    messages = [kernel.receive()]
    while messages[-1].unique != unique:
        messages.append(kernel.receive())
    assert sorted(told(messages[:-1])) == sorted((p.ROOT_ID, directory, inner))
    assert messages[-1].error == 0
    kernel.body(Opcode.SETATTR, inner, MODE)
    assert kernel.notices == [], "told twice"


def test_every_parent(kernel: Kernel) -> None:
    directory, sub = kernel.node("dir"), kernel.node("dir/sub")
    kernel.made(b"new", sub)
    assert sorted(told(kernel.notices)) == sorted((p.ROOT_ID, directory, sub))


def test_also_when_the_operation_fails(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, inner = kernel.node("dir"), kernel.node("dir/inner")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("unionfs.overlay.copy_up.FileCopyUp.run", full)
    assert kernel.ask(Opcode.SETATTR, inner, MODE).error == errno.ENOSPC
    assert sorted(told(kernel.notices)) == [p.ROOT_ID, directory]


def test_by_every_node_of_an_inode(kernel: Kernel) -> None:
    """One that got a new node after a copy-up is known by both."""
    directory, inner = kernel.node("dir"), kernel.node("dir/inner")
    other = (1 << 63) + 1
    kernel.session._server.nodes_of = lambda ino: [ino, other] if ino == directory else [ino]
    kernel.body(Opcode.SETATTR, inner, MODE)
    assert sorted(told(kernel.notices)) == sorted((p.ROOT_ID, directory, inner, other))


def test_a_metacopy_that_gets_its_data(start: Start, config: UnionConfig, gate: Gate) -> None:
    """Hard linked, it is filled in place: who looked meanwhile has seen other times."""
    kernel = start(config=replace(config, metacopy=True))
    node = kernel.node("big")
    kernel.body(Opcode.SETATTR, node, MODE)
    kernel.link(node, b"other")
    kernel.notices.clear()
    waiting = kernel.send(Opcode.OPEN, node, p.OPEN_IN.pack(os.O_RDWR, 0))
    assert gate.reached.wait(PATIENCE)
    gate.open.set()
    assert kernel.wait_for(waiting).error == 0
    assert told(kernel.notices) == [node]


def test_when_nobody_waits_for_it_any_more(
    start: Start, config: UnionConfig, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who asked was killed: no request comes that would bring it along."""
    kernel = start(config=replace(config, metacopy=True))
    node = kernel.node("big")
    kernel.body(Opcode.SETATTR, node, MODE)
    kernel.link(node, b"other")
    kernel.notices.clear()
    monkeypatch.setattr(interrupts, "sigkill_pending", lambda pid: True)
    waiting = kernel.send(Opcode.OPEN, node, p.OPEN_IN.pack(os.O_RDWR, 0))
    assert gate.reached.wait(PATIENCE)
    kernel.interrupt(waiting)
    assert kernel.wait_for(waiting).error == errno.EINTR
    gate.open.set()
    assert eventually(lambda: not kernel.session._server._waiting)
    notice = kernel.receive()
    assert told([notice]) == [node]


def test_flags_of_chattr(kernel: Kernel) -> None:
    """They change the change time, which the kernel does not know of."""
    node = kernel.made(b"new").node
    body = p.IOCTL_IN.pack(0, 0, FS_IOC_SETFLAGS, 0, 4, 0) + bytes(4)
    answer = kernel.ask(Opcode.IOCTL, node, body)
    if answer.error in (errno.ENOTTY, errno.EOPNOTSUPP):
        pytest.skip("no such flags on this filesystem")
    assert answer.error == 0
    assert told(kernel.notices) == [node]


def test_a_kernel_that_has_forgotten(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """ENOENT to a notification says so; it is no failure of ours."""
    session = kernel.session._server
    for code in (errno.ENOENT, errno.ENODEV, errno.EPERM, errno.ECONNABORTED):
        session._log_send_error(OSError(code, "planted"))
    assert caplog.text == ""
    session._log_send_error(OSError(errno.EINVAL, "planted"))
    assert "write to /dev/fuse failed" in caplog.text
