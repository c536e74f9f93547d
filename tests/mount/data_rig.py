"""Unions for tests of data: every way that data can take, and kernel overlayfs beside them as the oracle.

A test gives the layers' files, and what it does with them is done on each of the mounts.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounts import Daemon, make_directories, overlayfs, pyunionfs, scratch
from tests.support.users import become, in_thread_of

WAYS: Mapping[str, tuple[str, ...]] = {
    "default": ("transport=direct",),
    "passthrough": ("transport=direct", "passthrough=on"),
    "coherent": ("transport=direct", "passthrough=on", "coherent"),
    "cached": ("transport=direct", "passthrough=off"),
    "checked": ("transport=direct", "passthrough=off", "timeout=0"),
    "pyfuse3": ("transport=pyfuse3",),
}
"""Options by the way that data takes: past the daemon, but for lower files that may be written while they are
read; past it always; past it but for lowers; through the kernel's cache with no OPEN asked; through the cache
with each OPEN asked; through libfuse."""

Populate = Callable[[Path, Path], None]
"""Makes the layers' content: called with lower and upper."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Side:
    """One mounted stack; `daemon` is None for kernel overlayfs."""

    base: Path
    daemon: Daemon | None

    @property
    def lower(self) -> Path:
        return self.base / "lower"

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @property
    def merged(self) -> Path:
        return self.base / "merged"

    def descriptors(self) -> int:
        """How many the daemon has open."""
        assert self.daemon is not None
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))


@contextmanager
def side(
    way: str, populate: Populate, options: Sequence[str] = (), directory: Path | None = None
) -> Iterator[Side]:
    """Mount by one of WAYS, or "overlayfs"."""
    with scratch(directory) as base:
        make_directories(base)
        base.chmod(0o755)
        populate(base / "lower", base / "upper")
        lowers, upper, work, merged = [base / "lower"], base / "upper", base / "work", base / "merged"
        if way == "overlayfs":
            with overlayfs(lowers, upper, work, merged, options=options):
                yield Side(base, None)
        else:
            with pyunionfs(lowers, upper, work, merged, options=[*WAYS[way], *options]) as daemon:
                yield Side(base, daemon)


def errno_of(action: Callable[[], object]) -> str:
    """ "ok", or the name of the errno that an action fails with."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def in_child(action: Callable[[], object], uid: int = 0, groups: Sequence[int] = ()) -> str:
    """`errno_of` an action in a forked process, which belongs to *uid* and its group of the same number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = "died"
        try:
            if uid:
                become(uid, groups)
            outcome = errno_of(action)
        except BaseException:
            outcome = traceback.format_exc()
        finally:
            os.write(writer, outcome.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        outcome = pipe.read().decode()
    os.waitpid(pid, 0)
    return outcome


def in_thread(action: Callable[[], object], uid: int, groups: Sequence[int] = ()) -> str:
    """`errno_of` an action of a user, or of root, in a thread: for what leaves no descriptor and no lock."""
    return in_thread_of(uid, groups, functools.partial(errno_of, action))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2): Python's posix_fallocate writes where a filesystem has no such operation."""
    if _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def data_segments(fd: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, beginning and end of each piece, as cp(1) asks (SEEK_DATA and SEEK_HOLE)."""
    end, size = 0, os.fstat(fd).st_size
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def contents(directory: Path) -> dict[str, tuple[bytes, int, int, int]]:
    """Of each file below, as it really is: data, mode, mtime and ctime."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            st = path.stat()
            found[str(path.relative_to(directory))] = (
                path.read_bytes(),
                st.st_mode,
                st.st_mtime_ns,
                st.st_ctime_ns,
            )
    return found
