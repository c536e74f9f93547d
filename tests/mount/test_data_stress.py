"""Readers and writers at random, in threads of several processes, some of which are killed.

Who changes a file holds its lock, which lies outside of the union, and notes its generation; who reads by
path under the lock must find that generation and nothing else, and who reads an old descriptor or mapping
must find one generation, whole. Any error is a failure, ESTALE above all. Lowers stay as they are.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.mount.data_rig import contents, side
from tests.support.kernel_cache import forget_unused
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

FILES = 150
BLOCK = 1024
MOST_SECONDS = 60.0
SECONDS = 3.0
PROCESSES, THREADS = 3, 3


def content(number: int, generation: int) -> bytes:
    """What a file holds: its length, too, tells the generation."""
    return (b"%04d:%010d;" % (number, generation) * (BLOCK // 16)) * (1 + generation % 9)


class Shared:
    """What all processes share: the generation of each file, and a lock for each."""

    def __init__(self, directory: Path) -> None:
        self._table = mmap.mmap(-1, FILES * 8)
        self._locks = directory

    def generation(self, number: int) -> int:
        return int.from_bytes(self._table[number * 8 : number * 8 + 8], "little")

    def set_generation(self, number: int, generation: int) -> None:
        self._table[number * 8 : number * 8 + 8] = generation.to_bytes(8, "little")

    def is_enough(self, until: float) -> bool:
        """Whether the time is over and, unless the machine hardly gets on, most files have changed twice."""
        now = time.monotonic()
        if now < until:
            return False
        return now > until + MOST_SECONDS or sum(map(self.generation, range(FILES))) > 2 * FILES

    @contextmanager
    def locked(self, number: int, how: int) -> Iterator[None]:
        with (self._locks / str(number)).open("ab") as lock:
            fcntl.flock(lock, how)
            yield


class Worker:
    """One thread's files and operations."""

    def __init__(self, merged: Path, shared: Shared, seed: int) -> None:
        self.merged = merged
        self.shared = shared
        self.rng = random.Random(seed)
        self.kept: list[tuple[int, int]] = []
        changes: list[Callable[[Path, bytes], None]] = [
            overwrite,
            overwrite,
            truncate_and_write,
            write_by_mapping,
            replace,
            recreate,
            change_attributes,
        ]
        self.changes = changes

    def step(self) -> None:
        number = self.rng.randrange(FILES)
        path = self.merged / str(number)
        what = self.rng.random()
        if what < 0.35:
            with self.shared.locked(number, fcntl.LOCK_SH):
                self.check_path(path, number)
        elif what < 0.55:
            self.keep(path, number)
        elif what < 0.75:
            self.check_kept()
        elif what < 0.99:
            with self.shared.locked(number, fcntl.LOCK_EX):
                change = self.rng.choice(self.changes)
                generation = self.shared.generation(number) + (change is not change_attributes)
                change(path, content(number, generation))
                self.shared.set_generation(number, generation)
                self.check_path(path, number)
        else:
            forget_unused(self.merged)

    def check_path(self, path: Path, number: int) -> None:
        wanted = content(number, self.shared.generation(number))
        assert path.read_bytes() == wanted, f"{path} is not of generation {self.shared.generation(number)}"
        assert path.stat().st_size == len(wanted)

    def keep(self, path: Path, number: int) -> None:
        with self.shared.locked(number, fcntl.LOCK_SH):
            self.kept.append((number, os.open(path, os.O_RDONLY)))
        if len(self.kept) > 8:
            os.close(self.kept.pop(self.rng.randrange(len(self.kept)))[1])

    def check_kept(self) -> None:
        if not self.kept:
            return
        number, fd = self.rng.choice(self.kept)
        with self.shared.locked(number, fcntl.LOCK_SH):
            found = os.pread(fd, 1 << 20, 0)
            generation = int(found[5:15])
            assert found == content(number, generation), f"file {number}: a mixture"
            assert generation <= self.shared.generation(number)
            with mmap.mmap(fd, len(found), prot=mmap.PROT_READ) as view:
                assert view[:] == found

    def close(self) -> None:
        for _, fd in self.kept:
            os.close(fd)


def overwrite(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, len(data))
    os.close(fd)


def truncate_and_write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_by_mapping(path: Path, data: bytes) -> None:
    os.truncate(path, len(data))
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, len(data)) as view:
        view[:] = data
    os.close(fd)


def replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(data)
    fresh.rename(path)


def recreate(path: Path, data: bytes) -> None:
    path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, data)
    os.close(fd)


def change_attributes(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    os.utime(path, (1, 1))
    os.setxattr(path, "user.x", data[:16])
    assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o600, 1)


def work(merged: Path, shared: Shared, seed: int, until: float) -> list[str]:
    """A process's threads; what has gone wrong in them."""
    problems: list[str] = []

    def one(number: int) -> None:
        worker = Worker(merged, shared, seed * 1000 + number)
        try:
            while not shared.is_enough(until) and not problems:
                worker.step()
        except BaseException:
            problems.append(traceback.format_exc())
        finally:
            worker.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return problems


def read_only(merged: Path, shared: Shared, seed: int) -> None:
    """Keeps descriptors until it is killed, whenever that is."""
    rng = random.Random(seed)
    fds: list[int] = []
    while True:
        if len(fds) > 100:
            os.close(fds.pop(0))
        number = rng.randrange(FILES)
        # No lock: it would be let go of in the middle of something.
        try:
            fd = os.open(merged / str(number), os.O_RDONLY)
        except FileNotFoundError:  # `recreate` is at it
            continue
        fds.append(fd)
        os.read(fd, 100)


def child(action: Callable[[], object], report: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            found = action()
            report.write_text("\n".join(found) if isinstance(found, list) else "")
        except BaseException:
            report.write_text(traceback.format_exc())
        finally:
            os._exit(0)
    return pid


@pytest.mark.parametrize("options", [[], ["index=on", "metacopy=on"]], ids=["plain", "index+metacopy"])
@pytest.mark.parametrize("way", ["default", "passthrough", "coherent", "cached"])
def test_readers_and_writers_at_random(way: str, options: list[str], tmp_path: Path) -> None:
    def with_files(lower: Path, upper: Path) -> None:
        for number in range(FILES):
            (lower / str(number)).write_bytes(content(number, 0))
            if number % 3 == 0:
                # A file with another name, which nobody uses.
                os.link(lower / str(number), lower / f"{number}.link")

    shared = Shared(tmp_path)
    with side(way, with_files, options) as mounted:
        before = contents(mounted.lower)
        until = time.monotonic() + SECONDS
        workers = {
            child(partial(work, mounted.merged, shared, seed, until), tmp_path / f"report {seed}")
            for seed in range(PROCESSES)
        }
        seed = 0
        while not shared.is_enough(until):
            seed += 1
            victim = child(partial(read_only, mounted.merged, shared, seed), tmp_path / "victim")
            time.sleep(0.3)
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            assert not (tmp_path / "victim").exists(), (tmp_path / "victim").read_text()
        for pid in workers:
            os.waitpid(pid, 0)
        problems = [(tmp_path / f"report {seed}").read_text() for seed in range(PROCESSES)]
        assert problems == [""] * PROCESSES, "\n".join(problems)
        generations = [shared.generation(number) for number in range(FILES)]
        assert sum(generations) > 2 * FILES, "too little has happened"
        for number, generation in enumerate(generations):
            wanted = content(number, generation)
            assert (mounted.merged / str(number)).read_bytes() == wanted
            if generation:
                assert (mounted.upper / str(number)).read_bytes() == wanted
        assert contents(mounted.lower) == before
