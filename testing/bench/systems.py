"""What is compared: native ext4, kernel overlayfs, fuse-overlayfs and pyunionfs with its mount options.

Each system shows a stack at `merged` for as long as a context lasts. Nothing may be left behind, whatever
happened inside: a daemon that does not end after its unmount is killed (its own pid only) and that is an
error of the measurement, and a watchdog kills one that holds the work up for too long.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from testing.mounts import command, environment, join_layers, mount_types, umount
from unionfs.control import status_socket
from unionfs.linux.mount import mount_table

_END = 30.0

OVERLAYFS = "overlayfs"
FUSE_OVERLAYFS = "fuse-overlayfs"
NATIVE = "native"


class BenchError(Exception):
    """A system could not do what it was asked to: recorded as its result, the run goes on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one system has its directories during one workload."""

    base: Path
    tree: Path | None = None
    """The directory that native shows instead of a mount."""

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @property
    def work(self) -> Path:
        return self.base / "work"

    @property
    def merged(self) -> Path:
        return self.tree or self.base / "merged"

    @property
    def log(self) -> Path:
        return self.base / "log"


@dataclass(slots=True)
class Mounted:
    """A system that shows its tree. `pid` is its daemon's, 0 without one."""

    merged: Path
    seconds: float = 0.0
    """From the start of the mount command to the first answer of the mount."""
    pid: int = 0
    given_up: threading.Event = field(default_factory=threading.Event)
    counts_requests: bool = False

    def requests(self) -> dict[str, int]:
        """How many requests of which kind the daemon has had, as `pyunionfs status --json` says."""
        if not self.counts_requests:
            return {}
        # This daemon alone: another one that hangs would keep every measurement waiting.
        for entry in mount_table():
            if entry.path == str(self.merged):
                for daemon in status_socket.query_mount(entry):
                    if daemon.status is not None:
                        return dict(daemon.status["requests"])
        raise BenchError("the daemon does not say how many requests it has had")

    def anonymous_memory(self) -> int:
        """Bytes of memory that are the daemon's own; 0 when the kernel does the work."""
        if not self.pid:
            return 0
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"the memory of process {self.pid} is not shown")


@dataclass(frozen=True)
class System:
    """One way to show a stack as a tree; a subclass says which command mounts it."""

    name: str
    options: str = ""
    patience: float = 300.0
    """Seconds after which work on one mount is given up."""
    has_daemon = False
    native = False

    @cached_property
    def unavailable(self) -> str:
        """Why it cannot be measured here; empty when it can."""
        return ""

    @cached_property
    def what(self) -> str:
        """What it is, with its version."""
        raise NotImplementedError

    def mount_command(self, stack: list[Path], place: Place) -> list[str]:
        raise NotImplementedError

    @contextmanager
    def mounted(self, stack: list[Path], place: Place) -> Iterator[Mounted]:
        """Mount with an empty upper; at the end unmount and wait for the daemon's end."""
        began = time.perf_counter()
        mounted = Mounted(place.merged)
        words = self.mount_command(stack, place)
        try:
            _run(words)
            os.stat(place.merged)
            mounted.seconds = time.perf_counter() - began
            if not mount_types(place.merged):
                raise BenchError(f"{words[0]} returned, but nothing is mounted")
            if self.has_daemon:
                mounted.pid = _daemon_of(place.merged)
            mounted.counts_requests = isinstance(self, PyUnionFS)
            with _watchdog(mounted, self.patience):
                yield mounted
        except (OSError, BenchError) as error:
            if not mounted.given_up.is_set():
                raise
            raise BenchError(f"given up after {self.patience:g} s: {error}") from error
        finally:
            _unmount(place.merged, mounted.pid)
        if place.log.exists() and "Traceback" in (log := place.log.read_text(errors="replace")):
            raise BenchError(f"the daemon logged a traceback: {log[-400:]}")


@dataclass(frozen=True)
class Native(System):
    """The filesystem itself, with a plain copy of the union. The caller has put it at `merged`."""

    native = True

    @cached_property
    def what(self) -> str:
        return "the filesystem below all others, a plain copy of the tree"

    @contextmanager
    def mounted(self, stack: list[Path], place: Place) -> Iterator[Mounted]:
        yield Mounted(place.merged)


@dataclass(frozen=True)
class Overlayfs(System):
    @cached_property
    def what(self) -> str:
        return f"kernel overlayfs of Linux {os.uname().release}"

    def mount_command(self, stack: list[Path], place: Place) -> list[str]:
        options = f"lowerdir={join_layers(stack)},upperdir={place.upper},workdir={place.work}"
        options += f",{self.options}" if self.options else ""
        return ["mount", "-t", "overlay", "overlay", "-o", options, str(place.merged)]


@dataclass(frozen=True)
class FuseOverlayfs(System):
    has_daemon = True

    @cached_property
    def unavailable(self) -> str:
        return "" if shutil.which("fuse-overlayfs") else "not installed: apt-get install fuse-overlayfs"

    @cached_property
    def what(self) -> str:
        text = subprocess.run(["fuse-overlayfs", "--version"], capture_output=True, text=True).stdout
        version = [line.partition("version ")[2] for line in text.splitlines() if "fuse-overlayfs" in line]
        return f"fuse-overlayfs {version[0] if version else 'of unknown version'}"

    def mount_command(self, stack: list[Path], place: Place) -> list[str]:
        options = f"lowerdir={join_layers(stack)},upperdir={place.upper},workdir={place.work}"
        options += f",{self.options}" if self.options else ""
        return ["fuse-overlayfs", "-o", options, str(place.merged)]


@dataclass(frozen=True)
class PyUnionFS(System):
    has_daemon = True
    checkout: Path | None = None
    """Another checkout whose code is run, instead of this one's."""

    @cached_property
    def unavailable(self) -> str:
        from unionfs.errors import OptionError
        from unionfs.options import mount_options

        try:
            mount_options.parse(["/lower", "/upper", "/work", "/merged"], [self.options])
        except OptionError as error:
            return str(error)
        return ""

    @cached_property
    def what(self) -> str:
        where = "" if self.checkout is None else f" of {self.checkout}"
        return f"pyunionfs{where}, -o {self.options}"

    def mount_command(self, stack: list[Path], place: Place) -> list[str]:
        words = ["mount", "--log-file", str(place.log), "-o", self.options, join_layers(stack)]
        words = command(*words, str(place.upper), str(place.work), str(place.merged))
        if self.checkout is None:
            return words
        # `python -m` looks into the working directory first.
        return ["env", "-C", str(self.checkout), f"PYTHONPATH={self.checkout}", *words]


def all_systems(extra: list[str], before: Path | None = None) -> list[System]:
    """Those that are always compared, each NAME=OPTIONS as one more pyunionfs, and another checkout."""
    systems: list[System] = [
        Native(NATIVE),
        Overlayfs(OVERLAYFS, "redirect_dir=on,index=off,metacopy=off"),
        FuseOverlayfs(FUSE_OVERLAYFS),
        PyUnionFS("direct", "transport=direct"),
        PyUnionFS("cached", "transport=direct,passthrough=off"),
        PyUnionFS("pyfuse3", "transport=pyfuse3"),
    ]
    for text in extra:
        name, equals, options = text.partition("=")
        if not name or not equals or name in {system.name for system in systems}:
            raise BenchError(
                f"--system {text}: give a new name and options, as in coherent=transport=direct,coherent"
            )
        systems.append(PyUnionFS(name, options))
    if before is not None:
        if not (before / "unionfs" / "__main__.py").is_file():
            raise BenchError(f"--before {before}: no checkout of pyunionfs")
        systems.append(PyUnionFS("before", "transport=direct", checkout=before.resolve()))
    return systems


def _run(words: list[str]) -> None:
    """Run a command that mounts. Its output goes to a file: a daemon would hold a pipe open."""
    with open("/dev/null", "rb") as nothing, open(os.memfd_create("output"), "w+b") as output:
        try:
            status = subprocess.run(
                words, stdin=nothing, stdout=output, stderr=output, env=environment(), timeout=_END
            ).returncode
        except subprocess.TimeoutExpired:
            raise BenchError(f"{words[0]} did not return within {_END:.0f} s") from None
        if status != 0:
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
            raise BenchError(f"mounting failed with status {status}: {text[-400:]}")


def _daemon_of(merged: Path) -> int:
    """The process that was started with this mountpoint as its last argument."""
    wanted = os.fsencode(merged)
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if words[-1] == wanted:
                return int(name)
    raise BenchError(f"no daemon of {merged} was found")


@contextmanager
def _watchdog(mounted: Mounted, patience: float) -> Iterator[None]:
    """Kill the daemon when the work takes too long: what waits for it then gets ENOTCONN."""

    def give_up() -> None:
        mounted.given_up.set()
        _kill(mounted.pid)

    timer = threading.Timer(patience, give_up)
    timer.daemon = True
    if mounted.pid:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended by itself meanwhile


def _unmount(merged: Path, pid: int) -> None:
    try:
        if mount_types(merged):
            umount(merged)
    except OSError as error:
        umount(merged, lazy=True)
        if pid:
            _kill(pid)
        raise BenchError(f"unmounting: {error}") from error
    deadline = time.monotonic() + _END
    while pid and Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            _kill(pid)
            raise BenchError(f"the daemon did not end within {_END:.0f} s after its unmount")
        time.sleep(0.005)
