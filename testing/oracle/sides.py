"""The filesystems that the oracle can put on either side: kernel overlayfs, pyunionfs, fuse-overlayfs.

A side mounts and unmounts, and can be cut off when it hangs. Must know nothing of what is compared.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio  # noqa: F401  (loaded before the fork: see PyUnionFS)

import unionfs.cli
import unionfs.daemon.event_loop
import unionfs.daemon.lifecycle
import unionfs.overlay.super
import unionfs.transport.direct
import unionfs.transport.pyfuse3
from testing import mounts, transports
from testing.oracle.places import HERE, UID, Place, Places


@dataclass(frozen=True)
class Union:
    """The directories of one union, lowers topmost first, as every mount command wants them."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path
    merged: Path
    data: tuple[Path, ...] = ()
    """The data-only layers."""
    places: Places = HERE

    def list_of_lowers(self) -> str:
        """All lowers, as overlayfs and pyunionfs read them."""
        return "::".join([mounts.join_layers(self.lowers), *(mounts.join_layers([one]) for one in self.data)])


class SideError(Exception):
    """The side did not mount or did not end as it should; the message has its log."""


class Side(ABC):
    """One way of mounting a union."""

    name: str
    uses_passthrough = False
    """Whether the kernel reads all lower files by itself, and old readers keep them."""
    reads_large_by_passthrough = False
    """Whether it does so for large lower files, at least."""
    allocates = True
    """Whether there is fallocate(2)."""
    records_in_files = False
    """Whether deletions are `.wh.` files, which kernel overlayfs does not know."""

    @abstractmethod
    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        """Mount until the context ends. Raises SideError when something is wrong with the mount itself."""

    def place(self, places: Places) -> Place:
        """Where it mounts."""
        return places.fuse

    def opens_silently(self, *, own: bool) -> bool:
        """Whether the kernel opens files without asking, in a mount of root's or an ordinary user's own."""
        return False

    def cut_off(self) -> None:  # noqa: B027  (a side without a process of its own has nothing to cut)
        """Make all processes that wait for this side's mount go on, with errors.

        What does not serve from a process cannot.
        """


class Kernel(Side):
    """Kernel overlayfs."""

    name = "kernel"

    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        return self._mounted(union, options)

    @contextmanager
    def _mounted(self, union: Union, options: Sequence[str]) -> Iterator[None]:
        layers = union.lowers, union.upper, union.work, union.merged
        place = union.places.kernel
        place.call(mounts.mount_overlayfs, *layers, options=options, data_lowers=union.data)
        try:
            yield
        finally:
            place.call(mounts.umount, union.merged)

    def place(self, places: Places) -> Place:
        return places.kernel


class PyUnionFS(Side):
    """pyunionfs from this checkout.

    A campaign mounts thousands of times, so the daemon is a fork of this process, with Python and its modules
    loaded already; what it does is what `pyunionfs mount -f` does.
    """

    name = "pyunionfs"

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self.extra = list(extra)
        self._direct = transports.chosen() != "pyfuse3" and "timeout" not in "".join(extra)
        self.uses_passthrough = self._direct and "passthrough=on" in extra and "coherent" not in extra
        small_only = {"passthrough=off", "coherent"}.intersection(extra)
        self.reads_large_by_passthrough = self._direct and not small_only
        # README.md: libfuse's binding has none.
        self.allocates = transports.chosen() != "pyfuse3"
        self.records_in_files = "whiteouts=aufs" in extra
        self._pid: int | None = None
        self._log = Path()

    @contextmanager
    def mount(self, union: Union, options: Sequence[str]) -> Iterator[object]:
        words = ["mount", "-f", *transports.mount_words(), "-o", ",".join([*options, *self.extra])]
        directories = [union.list_of_lowers(), *map(str, (union.upper, union.work, union.merged))]
        place = self.place(union.places)
        self._fork([*words, *directories], place)
        try:
            self._wait_for_mount()
            yield self
        finally:
            complaint = self._end(union.merged, place)
            log = self._log.read_text(errors="replace")
            self._log.unlink()
        if complaint is None and "Traceback" in log:
            complaint = "the daemon logged a traceback"
        if complaint is not None:
            raise SideError(f"{complaint}\n{log}")

    def opens_silently(self, *, own: bool) -> bool:
        # An ordinary user's mount has no passthrough.
        return self._direct and (own or "passthrough=off" in self.extra)

    def _fork(self, arguments: list[str], place: Place) -> None:
        fd, log = tempfile.mkstemp(prefix="pyunionfs-", suffix=".log")
        self._log = Path(log)
        self._pid = os.fork()
        if self._pid == 0:
            status = 70
            try:
                os.setsid()
                place.enter()
                if os.geteuid() == UID:
                    _leave_roots_environment()
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                # Nothing that this process has open may keep the campaign's mounts or pipes alive.
                os.closerange(3, 1024)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                status = unionfs.cli.main(arguments)
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        os.close(fd)

    def _wait_for_mount(self) -> None:
        deadline = time.monotonic() + mounts.START_TIMEOUT
        # Its own word, not the table of mounts: an unmount before it is ready counts as another program's.
        while b" is mounted: " not in self._log.read_bytes():
            if self._gone() or time.monotonic() > deadline:
                raise SideError(f"pyunionfs did not mount\n{self._log.read_text(errors='replace')}")
            time.sleep(0.002)

    def _gone(self) -> bool:
        """Whether the daemon has exited; it is left to be reaped."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._pid is None or os.waitid(os.P_PID, self._pid, flags) is not None

    def _end(self, merged: Path, place: Place) -> str | None:
        """Unmount and reap. Returns what was wrong with the daemon's end."""
        cut = self._gone()
        while place.call(mounts.mount_types, merged):
            place.call(mounts.umount, merged, lazy=cut)
        deadline = time.monotonic() + mounts.STOP_TIMEOUT
        while not self._gone() and time.monotonic() < deadline:
            time.sleep(0.002)
        hangs = not self._gone()
        assert self._pid is not None
        threads = _threads(self._pid)
        if hangs:
            self.cut_off()
        _, status = os.waitpid(self._pid, 0)
        self._pid = None
        if hangs:
            return f"the daemon did not end after its unmount: {threads}"
        return None if status == 0 else f"the daemon ended with {os.waitstatus_to_exitcode(status)}"

    def cut_off(self) -> None:
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)


def _leave_roots_environment() -> None:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", transports.VARIABLE) if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, HOME="/", XDG_RUNTIME_DIR=f"/run/user/{UID}")


def _threads(pid: int) -> list[str]:
    """Where in the kernel each thread of a process waits."""
    return [
        f"{task.name}: {(task / 'wchan').read_text()} {(task / 'syscall').read_text().split(' ')[0]}"
        for task in Path(f"/proc/{pid}/task").glob("*")
    ]


class FuseOverlayfs(Side):
    """fuse-overlayfs, to see that the oracle finds differences where there are some."""

    name = "fuse-overlayfs"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self, union: Union, options: Sequence[str]) -> AbstractContextManager[object]:
        stack = ExitStack()
        data = f"lowerdir={mounts.join_layers(union.lowers)},upperdir={union.upper},workdir={union.work}"
        self._process = subprocess.Popen(
            ["fuse-overlayfs", "-f", "-o", f"{data},allow_other", str(union.merged)]
        )
        stack.callback(self._end, union.merged)
        deadline = time.monotonic() + mounts.START_TIMEOUT
        while not mounts.mount_types(union.merged):
            if self._process.poll() is not None or time.monotonic() > deadline:
                stack.close()
                raise SideError("fuse-overlayfs did not mount")
            time.sleep(0.005)
        os.stat(union.merged)
        return stack

    def _end(self, merged: Path) -> None:
        if mounts.mount_types(merged):
            mounts.umount(merged, lazy=True)
        if self._process is not None:
            self._process.wait(mounts.STOP_TIMEOUT)
            self._process = None

    def cut_off(self) -> None:
        if self._process is not None:
            self._process.kill()


def by_name(name: str) -> Side:
    """The side of this name."""
    sides: dict[str, type[Side]] = {side.name: side for side in (Kernel, PyUnionFS, FuseOverlayfs)}
    return sides[name]()
