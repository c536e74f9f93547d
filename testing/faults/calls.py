"""Making the n-th system call fail: functions of `os`, `fcntl` and `unionfs.linux` are wrapped for a while.

Nothing in the product knows of it. The wrappers stand in the modules' own names, where all code of the
product looks them up at each call (it says `os.open`, and the functions of `unionfs.linux` say
`_renameat2`); a test holds the product to that. What is only computed (`os.path`, `os.fsencode`) and what the
kernel never refuses (`umask`, `geteuid`, `getpid`) is left alone. So is close(2), which on a local filesystem
reports no failure, and has closed the descriptor also where it reports one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from unionfs.linux import fileattr, syscalls, xattr

CALLS = (
    *(
        "access",
        "chmod",
        "chown",
        "copy_file_range",
        "dup",
        "fchmod",
        "fchown",
        "fdatasync",
        "fdopen",
        "fstat",
    ),
    *(
        "fstatvfs",
        "fsync",
        "ftruncate",
        "getxattr",
        "lchown",
        "link",
        "listdir",
        "listxattr",
        "lseek",
        "lstat",
    ),
    *("mkdir", "mkfifo", "mknod", "open", "pipe2", "posix_fallocate", "pread", "preadv", "pwrite", "pwritev"),
    *(
        "read",
        "readlink",
        "readv",
        "remove",
        "removexattr",
        "rename",
        "replace",
        "rmdir",
        "scandir",
        "sendfile",
    ),
    *("setxattr", "stat", "statvfs", "symlink", "truncate", "unlink", "utime", "write", "writev"),
)
"""Functions of `os` that are system calls which may fail."""

RETRIED = frozenset(CALLS)
"""Python calls these again by itself after EINTR (PEP 475)."""

NEVER_FAIL = frozenset(("_setfsuid", "_setfsgid", "_prctl", "_libc"))
"""Functions of `unionfs.linux` that report no failure, by design."""

LINUX: tuple[ModuleType, ...] = (syscalls, xattr, fileattr)

_FUNCTION: type[object] = type(ctypes.CDLL(None).renameat2).__mro__[1]
"""The base of all functions of foreign libraries, which ctypes has no public name for."""

SIZED = {"read": 1, "pread": 1, "copy_file_range": 2, "sendfile": 3}
"""Calls that may do less than they are asked for, and which argument says how much that is."""
BUFFERED = {"write": 1, "pwrite": 1, "preadv": 1, "pwritev": 1, "readv": 1, "writev": 1}
"""The same, by buffers."""


@dataclass
class Fault:
    """Calls are counted from 1; the one number *at* fails with *code*, and all after it if it *stays*.

    Without a *code* it does half of what it is asked for. `reached` says which call it was, None: there were
    fewer. Threads count alike: what they call is the operation's.
    """

    at: int
    code: int | None = errno.EIO
    stays: bool = False
    count: int = 0
    reached: str | None = None
    names: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hits(self, name: str) -> bool:
        """Count a call, and say whether it is to fail."""
        if self.code is None and name not in SIZED and name not in BUFFERED:
            return False
        if self.code == errno.EINTR and name in RETRIED:
            return False
        with self._lock:
            self.count += 1
            hit = self.count >= self.at if self.stays else self.count == self.at
            if hit and self.reached is None:
                self.reached = name
        return hit


def _wrap_os(fault: Fault, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not fault.hits(name):
            return real(*args, **kwargs)
        if fault.code is not None:
            raise OSError(fault.code, os.strerror(fault.code), *args[:1])
        return real(*_halved(name, args), **kwargs)

    return call


def _halved(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    where = SIZED.get(name, BUFFERED.get(name, 0))
    changed = list(args)
    given = args[where]
    if name in SIZED:
        changed[where] = max(1, given // 2) if given else given
    elif name in ("write", "pwrite"):
        changed[where] = memoryview(given).cast("B")[: (len(given) + 1) // 2]
    else:
        first = memoryview(given[0]).cast("B")
        changed[where] = [first[: (len(first) + 1) // 2]]
    return tuple(changed)


def _wrap_ctypes(fault: Fault, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if not fault.hits(name):
            return real(*args)
        ctypes.set_errno(fault.code or 0)
        return -1

    return call


def _foreign(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(module).items():
        if isinstance(value, _FUNCTION) and callable(value) and name not in NEVER_FAIL:
            yield name, value


def wrapped() -> list[tuple[ModuleType, str, Callable[..., Any]]]:
    """All that is wrapped: module, name and the function itself."""
    found: list[tuple[ModuleType, str, Callable[..., Any]]] = []
    found += [(os, name, getattr(os, name)) for name in CALLS if hasattr(os, name)]
    found += [(fcntl, name, getattr(fcntl, name)) for name in ("ioctl", "fcntl", "flock", "lockf")]
    for module in LINUX:
        found += [(module, name, value) for name, value in _foreign(module)]
    return found


@contextmanager
def planted(fault: Fault) -> Iterator[Fault]:
    """Have *fault* happen until the end of the block."""
    real = wrapped()
    try:
        for module, name, function in real:
            wrap = _wrap_ctypes if module in LINUX else _wrap_os
            setattr(module, name, wrap(fault, name, function))
        yield fault
    finally:
        for module, name, function in real:
            setattr(module, name, function)
