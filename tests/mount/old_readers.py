"""What is opened before a copy-up and used after it: files, changes and locks, for root and other users."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.mount.data_rig import WAYS, in_child

COHERENT = [way for way in WAYS if way != "passthrough"]
DATA = b"of a lower " * 3000
LARGE = 3 << 20
F_OFD_SETLK = 37


def program(path: Path) -> None:
    shutil.copy("/bin/true", path)


def database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table packages (name text, filler blob)")
        connection.execute("insert into packages values ('first', zeroblob(?))", (LARGE,))
        connection.commit()


def populate(lower: Path, upper: Path) -> None:
    (lower / "small").write_bytes(DATA)
    (lower / "empty").touch()
    (lower / "log").write_bytes(b"a line of a log\n" * (LARGE // 16))
    (lower / "image").write_bytes(b"\x89PNG\0" + bytes(LARGE))
    database(lower / "database")
    program(lower / "program")


FOLLOWED = ("small", "empty", "log", "database")
"""Files whose old readers see what is written."""
KEPT = ("image", "program")
"""Files whose old readers keep the lower file by default, for the kernel reads it by itself."""


def append(path: Path, data: bytes = b"appended") -> None:
    with path.open("ab", buffering=0) as file:
        file.write(data)


def overwrite(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"OVER")


CHANGES: dict[str, Callable[[Path], None]] = {
    "append": append,
    "overwrite": overwrite,
    "truncate": lambda path: os.truncate(path, 3),
    "empty and write": lambda path: (path.write_bytes(b"new"), None)[1],
}


def sees(path: Path, change: str) -> bool:
    """Whether a descriptor from before a change reads the same as the name after it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        before = os.pread(fd, 1 << 24, 0)
        assert in_child(partial(CHANGES[change], path)) == "ok"
        wanted = path.read_bytes()
        assert wanted != before
        assert os.fstat(fd).st_size == len(wanted)
        assert Path(f"/proc/self/fd/{fd}").stat().st_mtime_ns == path.stat().st_mtime_ns
        return os.pread(fd, 1 << 24, 0) == wanted
    finally:
        os.close(fd)


def flock(fd: int, exclusive: bool) -> None:
    fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def posix(fd: int, exclusive: bool) -> None:
    fcntl.lockf(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def ofd(fd: int, exclusive: bool) -> None:
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


LOCKS: dict[str, Callable[[int, bool], None]] = {"flock": flock, "fcntl": posix, "OFD": ofd}


def lock(path: Path, kind: str, *, exclusive: bool) -> int:
    """Open a file and lock it; the descriptor."""
    fd = os.open(path, os.O_RDWR if exclusive else os.O_RDONLY)
    try:
        LOCKS[kind](fd, exclusive)
    except OSError:
        os.close(fd)
        raise
    return fd


def outcomes_of_locks(path: Path, kind: str) -> list[str]:
    """Which locks are granted beside one from before a copy-up, and beside one from after it."""
    shared = partial(lock, path, kind, exclusive=False)
    exclusive = partial(lock, path, kind, exclusive=True)
    early = lock(path, kind, exclusive=False)
    # By another process: closing any descriptor of a file drops the POSIX locks that a process has on it.
    assert in_child(partial(append, path)) == "ok"
    found = [in_child(exclusive), in_child(shared)]
    os.close(early)
    late = lock(path, kind, exclusive=True)
    found += [in_child(shared), in_child(exclusive)]
    os.close(late)
    return [*found, in_child(exclusive)]


ONE_SET = ["EAGAIN", "ok", "EAGAIN", "EAGAIN", "ok"]
