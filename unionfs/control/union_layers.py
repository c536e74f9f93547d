"""Which directories each union has, in a file beside its daemon's socket.

For a mount that looks whether it overlaps with others: a hundred such files are read in the time that one
daemon takes to reply. A daemon holds a lock on its file, so one that a dead daemon has left is taken for no
union. Another user's files are trusted no further than that user's daemons (`status_socket.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from unionfs.control import status_socket

_MAX_BYTES = 1 << 24
"""Of all files of one user together."""


class UnionLayers(NamedTuple):
    """The directories of one union, as absolute paths. `lowers` has the data-only ones, too."""

    mountpoint: str
    upper: str | None
    work: str | None
    lowers: tuple[str, ...]


class Union(NamedTuple):
    """A union that was found: its daemon's pid (in its own pid namespace), device number, and layers."""

    pid: int
    device: str
    layers: UnionLayers


def write(directory: int, stem: str, layers: UnionLayers) -> int:
    """Write the file of the daemon with the socket *stem*; the descriptor that keeps it locked."""
    name = stem + status_socket.LAYERS
    fd = os.open(f"{name}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with open(fd, "w", encoding="ascii", closefd=False) as file:
            json.dump(layers, file)
        os.rename(f"{name}.new", name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.close(fd)
        os.unlink(f"{name}.new", dir_fd=directory)
        raise
    return fd


def query_layers(devices: Collection[str], seconds: float) -> list[Union]:
    """The unions that are mounted with one of these device numbers.

    A daemon of an older version has no such file, and is queried: all cost so many *seconds* together.
    """
    found: list[Union] = []
    budgets: dict[int, _Budget] = {}
    for directory, owner in status_socket.open_directories(None):
        names = [name for name in status_socket.sockets(directory) if _device(name) in devices]
        # Another user must not keep this command busy for ever, by many files or many directories.
        budget = (
            _Budget(seconds) if owner == os.geteuid() else budgets.setdefault(owner, _Budget(seconds, 256))
        )
        found += _read_all(directory, names, budget)
    return found


class _Budget:
    """What the files of one user may cost."""

    def __init__(self, seconds: float, files: int | None = None) -> None:
        self.files = files
        self.bytes = _MAX_BYTES
        self.queries = status_socket.Limit(seconds)

    def admit(self, names: list[str]) -> list[str]:
        """As many of them as it has not yet had."""
        admitted = names[: self.files]
        if self.files is not None:
            self.files -= len(admitted)
        return admitted


def _device(name: str) -> str:
    return status_socket.device_of_name(name) or ""


def _read_all(directory: int, names: list[str], budget: _Budget) -> Iterator[Union]:
    older = []
    for name in budget.admit(names):
        stem = status_socket.stem_of_name(name)
        try:
            data = _read(directory, stem + status_socket.LAYERS, budget.bytes)
        except FileNotFoundError:
            older.append(name)
            continue
        budget.bytes -= len(data)
        layers = _parse(data)
        if layers is not None:
            with contextlib.suppress(ValueError):  # no daemon's name
                yield Union(int(stem.partition("-")[0]), _device(name), layers)
    with budget.queries as limit:
        replies = status_socket.query(directory, older, limit) if older and not limit.is_used_up else []
    for each in replies:
        if each.status is not None and each.device is not None:
            lowers = (*each.status["lowers"], *each.status["data_lowers"])
            layers = UnionLayers(each.status["mountpoint"], each.status["upper"], each.status["work"], lowers)
            yield Union(each.pid, each.device, layers)


def _read(directory: int, name: str, most: int) -> bytes:
    """What is in the file; b"" when it is none, too long, or a dead daemon's. FileNotFoundError."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError:
        return b""
    with open(fd, "rb") as file:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_uid != os.fstat(directory).st_uid or st.st_size > most:
            return b""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return b""
        return file.read(most)


def _parse(data: bytes) -> UnionLayers | None:
    try:
        mountpoint, upper, work, lowers = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = [mountpoint, *lowers] if isinstance(lowers, list) else [None]
    texts += [path for path in (upper, work) if path is not None]
    if not all(isinstance(text, str) for text in texts):
        return None
    return UnionLayers(mountpoint, upper, work, tuple(lowers))
