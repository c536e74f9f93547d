"""Asynchronous direct writes (io_submit(2), O_DIRECT) beside cached reads, on every way that data takes."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, side
from tests.support.aio import Writer, needs_aio
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport, needs_aio]

PAGE = mmap.PAGESIZE
SIZE = 1 << 20
ROUNDS = 60
"""With ASYNC_DIO agreed on at INIT every second round was wrong, one of thirty on a busy machine."""


def files(lower: Path, upper: Path) -> None:
    for layer in (lower, upper):
        (layer / layer.name).write_bytes(bytes(SIZE))


@contextmanager
def reader(path: Path) -> Iterator[None]:
    """A process that reads the file over and over, so that its pages are cached at every moment."""
    fd = os.open(path, os.O_RDONLY)
    assert os.pread(fd, PAGE, 0) is not None
    pid = os.fork()
    if pid == 0:
        while True:
            for offset in range(0, SIZE, PAGE):
                os.pread(fd, PAGE, offset)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", *WAYS])
def test_what_was_written_is_what_is_read(way: str) -> None:
    """The reader has the file open first: by `coherent` a lower one then goes through the cache."""
    with side(way, files) as mounted:
        for name in ("lower", "upper"):
            path = mounted.merged / name
            with reader(path), Writer() as writer, mmap.mmap(-1, SIZE) as data:
                direct = os.open(path, os.O_RDWR | os.O_DIRECT)
                plain = os.open(path, os.O_RDONLY)
                for turn in range(1, ROUNDS + 1):
                    data[:] = bytes([turn]) * SIZE
                    writer.write(direct, data, 0)
                    assert os.pread(plain, SIZE, 0) == data[:], f"{name}: stale in round {turn}"
                os.close(plain)
                os.close(direct)
            assert (mounted.upper / name).read_bytes() == bytes([ROUNDS]) * SIZE
