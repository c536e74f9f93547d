"""A union of a few small layers with a kernel that a test plays, and the process as it was afterwards."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.overlay.conftest import _process_as_it_was
from tests.transport.direct.kernel import PATIENCE, Kernel
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.copy_data import copy_data
from unionfs.transport.direct.protocol import (
    BACKING_MAP,
    DEV_IOC_BACKING_CLOSE,
    DEV_IOC_BACKING_OPEN,
    INVAL_INODE_OUT,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    U32,
)
from unionfs.transport.direct.server import Server

__all__ = ["_process_as_it_was"]

BIG = 1 << 20
"""The size of the lower file whose copy-up takes a worker."""


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """A directory with lower, upper and work; neither needs root."""
    lower = tmp_path / "lower"
    for path in (lower, tmp_path / "upper", tmp_path / "work", lower / "dir", lower / "dir/sub"):
        path.mkdir()
    (lower / "file").write_bytes(b"lower data")
    (lower / "dir/inner").write_bytes(b"inner data")
    (lower / "big").write_bytes(b"b" * BIG)
    (lower / "link").symlink_to("file")
    os.mkfifo(lower / "fifo")
    return tmp_path


@pytest.fixture
def config(layers: Path) -> UnionConfig:
    """Nothing is synced: a test must not wait for a disk."""
    return UnionConfig(
        lowers=(str(layers / "lower"),),
        upper=str(layers / "upper"),
        work=str(layers / "work"),
        userxattr=os.geteuid() != 0,
        volatile=True,
    )


Start = Callable[..., Kernel]


@pytest.fixture(autouse=True)
def _requests_thread_never_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Invariant 13: what waits in the kernel for replies is never sent by the thread that sends these."""
    wrong: list[str] = []
    notify = Server._notify

    def watched(self: Server, kind: int, *pieces: bytes | memoryview) -> None:
        drops_pages = kind == NOTIFY_INVAL_INODE and INVAL_INODE_OUT.unpack(pieces[0])[1] >= 0
        if threading.current_thread().name == "requests" and (drops_pages or kind == NOTIFY_INVAL_ENTRY):
            wrong.append(f"notification {kind} sent while requests wait to be read")
        notify(self, kind, *pieces)

    monkeypatch.setattr(Server, "_notify", watched)
    yield
    assert wrong == []


@pytest.fixture
def start(config: UnionConfig) -> Iterator[Start]:
    """Start a session with a kernel of one's own choice; `config=` replaces the usual one."""
    kernels: list[Kernel] = []

    def begin(**how: Any) -> Kernel:
        kernel = Kernel(how.pop("config", config), **how)
        kernels.append(kernel)
        return kernel

    yield begin
    for kernel in kernels:
        kernel.end()


@pytest.fixture
def backing(monkeypatch: pytest.MonkeyPatch) -> dict[int, os.stat_result]:
    """Backing files as the device keeps them: id to what was opened. A socket knows no such ioctl."""
    held: dict[int, os.stat_result] = {}
    numbers = itertools.count(1)

    def ioctl(fd: int, request: int, argument: bytes) -> int:
        if request == DEV_IOC_BACKING_CLOSE:
            del held[U32.unpack(argument)[0]]
            return 0
        assert request == DEV_IOC_BACKING_OPEN
        number = next(numbers)
        held[number] = os.fstat(BACKING_MAP.unpack(argument)[0])
        return number

    monkeypatch.setattr("unionfs.transport.direct.passthrough._ioctl", ioctl)
    monkeypatch.setattr("unionfs.transport.direct.session.may_use_backing_files", lambda: True)
    return held


@pytest.fixture
def kernel(start: Start) -> Kernel:
    """A kernel that wants a handle for every open."""
    return start()


class Gate:
    """The data of every copy-up waits here until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.passed = 0
        self.failure: BaseException | None = None
        """What the copying fails with."""


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()

    def waits(*arguments: Any, **options: Any) -> Any:
        gate.reached.set()
        assert gate.open.wait(PATIENCE)
        gate.passed += 1
        if gate.failure is not None:
            raise gate.failure
        return copy_data(*arguments, **options)

    for place in ("copy_up", "complete"):
        monkeypatch.setattr(f"unionfs.overlay.{place}.copy_data", waits)
    yield gate
    gate.open.set()
