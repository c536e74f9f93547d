"""Walking through a tree by descriptors, in the same order always. Follows no symlink, changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """An object: *name* in the directory *dirfd*, which is open until the next one is asked for."""

    dirfd: int
    name: bytes
    path: bytes
    """From the tree's root, which is b"."."""
    st: os.stat_result


@dataclass(slots=True)
class _Open:
    fd: int
    prefix: bytes
    names: list[bytes]
    """Those still to come, the last one first."""


def walk(top: Path, *, skip_closed: bool = False) -> Iterator[Found]:
    """Each object of a tree, a directory before what is in it, names in the order of their bytes.

    Paths may be longer than PATH_MAX; as many descriptors are open as the tree is deep. What is removed
    meanwhile is left out, and with *skip_closed* what is in directories that this process may not read.
    """
    stack: list[_Open] = []
    try:
        stack.append(_opened(os.open(top, _OPEN_DIR), b""))
        yield Found(stack[0].fd, b".", b".", os.fstat(stack[0].fd))
        while stack:
            directory = stack[-1]
            if not directory.names:
                os.close(stack.pop().fd)
                continue
            name = directory.names.pop()
            try:
                st = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
                yield Found(directory.fd, name, directory.prefix + name, st)
                if stat.S_ISDIR(st.st_mode):
                    below = os.open(name, _OPEN_DIR, dir_fd=directory.fd)
                    stack.append(_opened(below, directory.prefix + name + b"/"))
            except FileNotFoundError:
                continue
            except PermissionError:
                if not skip_closed:
                    raise
    finally:
        for directory in stack:
            os.close(directory.fd)


def size(top: Path) -> int:
    """Bytes of the files and symlinks in a tree, those with several names once; 0 for one that is gone.

    What the modes keep this process from is not counted.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    with suppress(FileNotFoundError, PermissionError):
        for found in walk(top, skip_closed=True):
            identity = (found.st.st_dev, found.st.st_ino)
            if stat.S_ISDIR(found.st.st_mode) or identity in seen:
                continue
            total += found.st.st_size
            if found.st.st_nlink > 1:
                seen.add(identity)
    return total


def _opened(fd: int, prefix: bytes) -> _Open:
    try:
        return _Open(fd, prefix, sorted(map(os.fsencode, os.listdir(fd)), reverse=True))
    except BaseException:
        os.close(fd)
        raise
