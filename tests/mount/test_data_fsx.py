"""One file, thousands of random operations by every means, and a model of it in memory (after Apple's fsx).

The file lies in a lower at first; whatever way its data takes, every read shows the model, and in the end
upper's file is the model's and the lower's is what it was.
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, fallocate, side
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

MOST = 200_000
SIZE = 120_001
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
OPERATIONS = 1500


class Exerciser:
    """The file by several descriptors, and what it must hold."""

    def __init__(
        self, path: Path, upper: Path, content: bytes, rng: random.Random, *, fallocates: bool
    ) -> None:
        self.path = path
        self.upper = upper
        self.content = content
        self.model = bytearray(content)
        self.rng = rng
        self.fds: list[int] = []
        self.done: list[str] = []
        self.operations: list[Callable[[], None]] = [
            *[self.read] * 4,
            *[self.write] * 4,
            *[self.map_read, self.map_write] * 2,
            *[self.truncate, self.append, self.reopen, self.read_direct, self.write_direct],
            *[self.copy_within, self.sync, self.forget_pages, self.reopen, self.stat, self.truncate_by_path],
        ]
        if fallocates:
            self.operations += [self.allocate, self.punch, self.zero]
        self.reopen()

    def fd(self) -> int:
        return self.rng.choice(self.fds)

    def span(self, most: int = MOST) -> tuple[int, int]:
        """A place and a length, of which some are page-aligned and most are not."""
        start = self.rng.randrange(most)
        length = self.rng.choice((1, 7, 100, 4096, 5000, 65536, 100_000))
        if self.rng.random() < 0.3:
            start &= ~4095
        return start, min(length, MOST - start)

    def noise(self, length: int) -> bytes:
        return self.rng.randbytes(length)

    def put(self, start: int, data: bytes) -> None:
        if not data:
            return
        self.model += bytes(max(0, start - len(self.model)))
        self.model[start : start + len(data)] = data

    def read(self) -> None:
        start, length = self.span()
        found = os.pread(self.fd(), length, start)
        assert found == self.model[start : start + length], f"read at {start}, {length}"

    def write(self) -> None:
        start, length = self.span()
        data = self.noise(length)
        assert os.pwrite(self.fd(), data, start) == length
        self.put(start, data)

    def append(self) -> None:
        data = self.noise(min(self.rng.randrange(1, 9000), MOST - len(self.model)))
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self.put(len(self.model), data)

    def map_read(self) -> None:
        if not self.model:
            return
        with mmap.mmap(self.fd(), len(self.model), prot=mmap.PROT_READ) as view:
            start, length = self.span()
            assert view[start : start + length] == self.model[start : start + length], f"mapped {start}"

    def map_write(self) -> None:
        if not self.model:
            return
        with mmap.mmap(self.fd(), len(self.model)) as view:
            start, length = self.span(len(self.model))
            data = self.noise(min(length, len(self.model) - start))
            view[start : start + len(data)] = data
            self.put(start, data)

    def truncate(self) -> None:
        self._cut(lambda size: os.ftruncate(self.fd(), size))

    def truncate_by_path(self) -> None:
        self._cut(lambda size: os.truncate(self.path, size))

    def _cut(self, action: Callable[[int], None]) -> None:
        size = self.rng.randrange(MOST)
        action(size)
        del self.model[size:]
        self.model += bytes(size - len(self.model))

    def allocate(self) -> None:
        start, length = self.span()
        fallocate(self.fd(), 0, start, length)
        self.model += bytes(max(0, start + length - len(self.model)))

    def punch(self) -> None:
        start, length = self.span()
        fallocate(self.fd(), KEEP_SIZE | PUNCH_HOLE, start, length)
        end = min(start + length, len(self.model))
        self.model[start:end] = bytes(max(0, end - start))

    def zero(self) -> None:
        start, length = self.span()
        fallocate(self.fd(), ZERO_RANGE, start, length)
        self.put(start, bytes(length))

    def copy_within(self) -> None:
        start, length = self.span()
        to = self.rng.randrange(MOST - length)
        if abs(to - start) < length:
            return
        data = bytes(self.model[start : start + length])
        copied = os.copy_file_range(self.fd(), self.fd(), length, start, to)
        assert copied <= len(data)
        self.put(to, data[:copied])

    def read_direct(self) -> None:
        start = self.rng.randrange(0, MOST, 4096)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 8192) as page:
                count = os.preadv(fd, [page], start)
                assert page[:count] == self.model[start : start + 8192], f"direct {start}"
        finally:
            os.close(fd)

    def write_direct(self) -> None:
        start = self.rng.randrange(0, MOST - 8192, 4096)
        data = self.noise(8192)
        fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 8192) as page:
                page[:] = data
                assert os.pwritev(fd, [page], start) == 8192
        finally:
            os.close(fd)
        self.put(start, data)

    def reopen(self) -> None:
        if len(self.fds) > 3:
            os.close(self.fds.pop(self.rng.randrange(len(self.fds))))
        self.fds.append(os.open(self.path, os.O_RDWR))

    def sync(self) -> None:
        os.fsync(self.fd())
        if self.upper.exists() or self.model != self.content:
            assert self.upper.read_bytes() == self.model, "upper after fsync"

    def forget_pages(self) -> None:
        fd = self.fd()
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def stat(self) -> None:
        assert self.path.stat().st_size == os.fstat(self.fd()).st_size == len(self.model)

    def run(self) -> None:
        for _ in range(OPERATIONS):
            operation = self.rng.choice(self.operations)
            self.done.append(operation.__name__)
            operation()

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", WAYS)
def test_every_read_shows_the_model(way: str, seed: int) -> None:
    content = random.Random(0).randbytes(SIZE)

    def with_file(lower: Path, upper: Path) -> None:
        (lower / "file").write_bytes(content)

    with side(way, with_file) as mounted:
        path, upper = mounted.merged / "file", mounted.upper / "file"
        exerciser = Exerciser(path, upper, content, random.Random(seed), fallocates=way != "pyfuse3")
        try:
            exerciser.run()
        except BaseException:
            print(f"seed {seed}, the last operations:", *exerciser.done[-20:])
            raise
        finally:
            exerciser.close()
        assert upper.read_bytes() == exerciser.model, "upper after close"
        assert path.read_bytes() == exerciser.model
        assert (mounted.lower / "file").read_bytes() == content
