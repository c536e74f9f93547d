"""The thread of requests and the workers together: the union's state is touched by one of them at a time."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.transport.direct.conftest import Start
from tests.transport.direct.kernel import HANDLES, SILENT, Kernel
from unionfs.overlay.copy_up import FileCopyUp
from unionfs.overlay.super import Union
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

MANNERS = pytest.mark.parametrize("offered", [HANDLES, SILENT], ids=["handles", "silent opens"])

FACES = [
    *("lookup", "mkdir", "create", "link", "unlink", "rename", "getattr", "setattr", "open_file"),
    *("open_granted", "release", "read_dir", "forget", "copy_up", "take_attrs_to_invalidate", "allocate_job"),
    *("copy_range_job", "sync_file"),
]


class Watch:
    """Who is inside the union just now, and what was seen of two at once."""

    def __init__(self, kernel: Kernel) -> None:
        self.lock = kernel.session._server.lock
        self.inside: list[int] = []
        self.complaints: list[str] = []
        self.threads: set[str] = set()

    def over(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            me = threading.get_ident()
            self.threads.add(threading.current_thread().name.partition("_")[0])
            if not self.lock.locked():
                self.complaints.append(f"{call.__name__} without the lock")
            if any(other != me for other in self.inside):
                self.complaints.append(f"{call.__name__} while another thread is inside")
            self.inside.append(me)
            try:
                time.sleep(0)  # an invitation to the others
                return call(*arguments, **options)
            finally:
                self.inside.remove(me)

        return watched


@MANNERS
def test_the_union_s_state(
    start: Start, layers: Path, monkeypatch: pytest.MonkeyPatch, offered: InitFlag
) -> None:
    names = [f"big{number}" for number in range(12)]
    for name in names:
        (layers / "lower" / name).write_bytes(os.urandom(1000) * 300)
    kernel = start(offered=offered)
    watch = Watch(kernel)
    for face in FACES:
        monkeypatch.setattr(Union, face, watch.over(getattr(Union, face)))
    monkeypatch.setattr(FileCopyUp, "finish", watch.over(FileCopyUp.finish))
    monkeypatch.setattr("unionfs.overlay.file.OpenFile.read_into", lambda *_: None)  # to the readers

    nodes = [kernel.node(name) for name in names]
    made, fh = kernel.create(b"new")
    handle = 0 if offered is SILENT else fh
    kernel.write(made.node, handle, b"d" * 10_000)
    sent: dict[int, tuple[Opcode, int]] = {}

    def send(opcode: Opcode, node: int, body: bytes, error: int = 0) -> None:
        sent[kernel.send(opcode, node, body)] = (opcode, error)

    size = 300_000
    for turn, node in enumerate(nodes):
        mode = p.SETATTR_IN.pack(p.FATTR_SIZE, 0, 0, size, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        send(Opcode.SETATTR, node, mode)
        send(Opcode.READ, made.node, p.READ_IN.pack(handle, turn, 5000, 0, 0, 0, 0))
        send(Opcode.LINK, p.ROOT_ID, p.LINK_IN.pack(node) + b"link%d\0" % turn)
        send(Opcode.MKDIR, p.ROOT_ID, p.MKDIR_IN.pack(0o755, 0) + b"dir%d\0" % turn)
        send(Opcode.FALLOCATE, made.node, p.FALLOCATE_IN.pack(handle, 0, 10_000, 0, 0))
        copy = p.COPY_FILE_RANGE_IN.pack(handle, 0, made.node, handle, 20_000 * (turn + 1), 5000, 0)
        send(Opcode.COPY_FILE_RANGE, made.node, copy)
        send(Opcode.FSYNC, made.node, p.FSYNC_IN.pack(handle, 0, 0))
        send(Opcode.RENAME, p.ROOT_ID, p.RENAME_IN.pack(p.ROOT_ID) + f"big{turn}\0moved{turn}\0".encode())
    wrong = []
    for unique, (opcode, error) in sent.items():
        answer = kernel.wait_for(unique)
        if answer.error != error:
            wrong.append((opcode.name, answer.error))
    assert wrong == []
    assert kernel.drain() == {}, "answered twice"
    assert watch.complaints == []
    assert {"requests", "copy"} <= watch.threads
    for turn in range(12):
        moved, linked = (layers / f"upper/{name}{turn}" for name in ("moved", "link"))
        assert moved.read_bytes() == (layers / f"lower/big{turn}").read_bytes()
        assert os.path.samefile(moved, linked)
    assert (layers / "upper/new").read_bytes()[20_000:25_000] == b"d" * 5000


def test_long_copies_keep_nobody_else_waiting(kernel: Kernel, gate: Any) -> None:
    """Reads of the disk and syncs have workers of their own, and the rest needs none."""
    made, fh = kernel.create(b"new")
    kernel.write(made.node, fh, b"data")
    waiting = kernel.send(Opcode.OPEN, kernel.node("big"), p.OPEN_IN.pack(os.O_RDWR, 0))
    copy = p.COPY_FILE_RANGE_IN.pack(fh, 0, made.node, fh, 100, 4, 0)
    copies = [kernel.send(Opcode.COPY_FILE_RANGE, made.node, copy) for _ in range(10)]
    assert gate.reached.wait(10)
    assert kernel.read(made.node, fh, size=4) == b"data"
    assert kernel.ask(Opcode.FSYNC, made.node, p.FSYNC_IN.pack(fh, 0, 0)).error == 0
    assert kernel.lookup(b"file").size == 10
    assert [kernel.wait_for(unique).error for unique in copies] == [0] * 10
    gate.open.set()
    assert kernel.wait_for(waiting).error == 0


def test_a_read_of_the_disk_that_is_answered_late(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers need no order: the kernel finds each by its number."""
    made = kernel.made(b"new", data=b"0123456789")
    fh = kernel.open(made.node, os.O_RDWR)
    begin = threading.Event()

    def slow(self: object, offset: int, size: int) -> bytes:
        assert begin.wait(10)
        return b"late"

    monkeypatch.setattr("unionfs.overlay.file.OpenFile.read_into", lambda *_: None)
    monkeypatch.setattr("unionfs.overlay.file.OpenFile.read", slow)
    late = kernel.send(Opcode.READ, made.node, p.READ_IN.pack(fh, 0, 10, 0, 0, 0, 0))
    assert kernel.lookup(b"file").size == 10
    assert kernel.session.pending_requests() == 1
    begin.set()
    assert kernel.wait_for(late).body == b"late"
