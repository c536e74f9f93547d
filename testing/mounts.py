"""Mounts for tests: pyunionfs, kernel overlayfs, and scratch filesystems, each as a context manager.

Every mount made here is gone when its context ends, whatever happened inside: a daemon that does not end by
itself is cut off (lazy unmount, then SIGKILL of its own pid) and that is reported as a failure, because a
test suite that leaves a mount behind makes every later failure unreadable. Nothing here may touch a mount
or a process that it did not make, and nothing here may hide how the daemon ended: exit status and log are
asserted.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testing import transports

REPOSITORY = Path(__file__).resolve().parents[1]

START_TIMEOUT = 20.0
STOP_TIMEOUT = 30.0
MNT_DETACH = 2
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
CLONE_NEWNS = 0x20000

_libc = ctypes.CDLL(None, use_errno=True)


# ----------------------------------------------------------------------------------------------------
# mount(2) and /proc/self/mountinfo


def mount(source: str, target: Path, fstype: str, flags: int = 0, data: str | bytes = "") -> None:
    """mount(2). Raises OSError with the kernel's errno."""
    raw = os.fsencode(data)
    c_flags = ctypes.c_ulong(flags)
    if _libc.mount(os.fsencode(source), os.fsencode(target), fstype.encode(), c_flags, raw) != 0:
        number = ctypes.get_errno()
        message = f"mount -t {fstype} -o {os.fsdecode(raw)}: {os.strerror(number)}"
        raise OSError(number, message, str(target))


def umount(target: Path, *, lazy: bool = False) -> None:
    """umount2(2), waiting a moment for a mount that is only just being released."""
    deadline = time.monotonic() + 5
    while _libc.umount2(os.fsencode(target), MNT_DETACH if lazy else 0) != 0:
        number = ctypes.get_errno()
        if number != errno.EBUSY or time.monotonic() > deadline:
            raise OSError(number, f"umount: {os.strerror(number)}", str(target))
        time.sleep(0.02)


@contextmanager
def mounted(fstype: str, target: Path, flags: int = 0, data: str = "") -> Iterator[None]:
    """A fresh filesystem without a device, such as tmpfs or ramfs, on a directory."""
    mount(fstype, target, fstype, flags, data)
    try:
        yield
    finally:
        umount(target)


def private_mounts() -> None:
    """Give this process a mount namespace of its own.

    Another process on the machine that makes a mount namespace gets a copy of every mount that is there,
    and holds it: a daemon then lives on after its unmount, and an upper stays in use. To be called before the
    first mount, by a process that is not the test runner's.
    """
    if _libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    mount("none", Path("/"), "", MS_REC | MS_PRIVATE)


def mount_types(target: Path) -> list[str]:
    """Filesystem types mounted at exactly this path, lowest first. Never touches the path: it may hang."""
    wanted = os.fsencode(target)
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        path = fields[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n")
        if path.replace(b"\\134", b"\\") == wanted:
            found.append(fields[fields.index(b"-") + 1].decode())
    return found


def make_directories(base: Path, *names: str) -> list[Path]:
    """Make directories of these names in `base`; without any, lower, upper, work and merged."""
    made = [base / name for name in names or ("lower", "upper", "work", "merged")]
    for path in made:
        path.mkdir(parents=True)
    return made


def join_layers(layers: Sequence[Path]) -> str:
    """A lower list as overlayfs and pyunionfs read it, colons and backslashes in names escaped."""
    return ":".join(str(layer).replace("\\", "\\\\").replace(":", "\\:") for layer in layers)


# ----------------------------------------------------------------------------------------------------
# pyunionfs


@dataclass
class Daemon:
    """A running pyunionfs mount."""

    pid: int
    merged: Path
    log_path: Path
    process: subprocess.Popen[bytes] | None
    expect_exit: int = 0
    """What the daemon must exit with; a test that kills it on purpose calls `kill`, which sets this."""

    def log(self) -> str:
        """All that the daemon has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self) -> None:
        """SIGKILL now, then free the mountpoint. The context then expects the daemon to be gone."""
        os.kill(self.pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(STOP_TIMEOUT)
        self.expect_exit = -signal.SIGKILL
        _detach(self.merged)


def command(*arguments: str) -> list[str]:
    """The command line that runs pyunionfs from this checkout, over the transport of this test."""
    first = list(arguments[:1])
    if first == ["mount"]:
        first += transports.mount_words()
    return [sys.executable, "-m", "unionfs", *first, *arguments[1:]]


def environment() -> dict[str, str]:
    """The environment for `command`: this checkout first on the module path, wherever the caller stands."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH", "")]))
    return env


@contextmanager
def pyunionfs(
    lowers: Sequence[Path],
    upper: Path | None,
    work: Path | None,
    merged: Path,
    *,
    options: Sequence[str] = (),
    user: int | None = None,
    foreground: bool = True,
    log_file: bool = True,
) -> Iterator[Daemon]:
    """Mount with pyunionfs, as `user` if given; unmount at the end and assert that the daemon ended well.

    Without `log_file` a daemon in the background logs where it does when it is not asked for anything else.
    """
    stderr = tempfile.NamedTemporaryFile(prefix="pyunionfs-", suffix=".log", delete=False)
    log_path = Path(stderr.name)
    if user is not None:
        os.chown(log_path, user, -1)
    arguments = ["mount"]
    if foreground:
        arguments.append("-f")
    elif log_file:
        arguments += ["--log-file", str(log_path)]
    if options:
        arguments += ["-o", ",".join(options)]
    arguments.append(join_layers(lowers))
    if upper is not None:
        assert work is not None, "an upper needs a work directory"
        arguments += [str(upper), str(work)]
    arguments.append(str(merged))
    process = subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        env=environment(),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    stderr.close()
    daemon = Daemon(process.pid, merged, log_path, process if foreground else None)
    try:
        try:
            if foreground:
                _wait_until_served(daemon, process)
            else:
                _wait_for_command(process, log_path)
                status = _status(merged, user)
                daemon.pid = int(status["pid"])
                if not log_file and status["log"].startswith("/"):
                    daemon.log_path = Path(status["log"])
            yield daemon
        finally:
            body_failed = sys.exc_info()[0] is not None
            complaint = _stop(daemon, user)
        assert body_failed or complaint is None, complaint
    finally:
        log_path.unlink(missing_ok=True)


def status_pid(merged: Path, *, user: int | None = None) -> int:
    """The daemon's pid by `pyunionfs status --json`."""
    return int(_status(merged, user)["pid"])


def _status(merged: Path, user: int | None) -> dict[str, Any]:
    """What `pyunionfs status --json` says, whose answer is one mount or a list of mounts."""
    done = subprocess.run(
        command("status", "--json", str(merged)),
        capture_output=True,
        env=environment(),
        timeout=STOP_TIMEOUT,
        user=user,
        group=user,
        check=True,
    )
    answer = json.loads(done.stdout)
    entry: dict[str, Any] = answer[0] if isinstance(answer, list) else answer
    return entry


def _wait_until_served(daemon: Daemon, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not any(kind.startswith("fuse") for kind in mount_types(daemon.merged)):
        if process.poll() is not None:
            raise AssertionError(f"pyunionfs mount ended with {process.returncode}:\n{daemon.log()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"pyunionfs mount did not mount within {START_TIMEOUT} s:\n{daemon.log()}")
        time.sleep(0.005)
    # The stat is made by a child, so that a daemon that never answers costs a timeout and not the test run.
    # A plain fork is not enough of a separation for a process blocked in the kernel: the child is abandoned
    # to the unmount.
    child = subprocess.Popen(
        ["stat", "--", str(daemon.merged)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _, problem = child.communicate(timeout=START_TIMEOUT)
    except subprocess.TimeoutExpired:
        _detach(daemon.merged)
        daemon_end(daemon)
        child.communicate()
        raise AssertionError(f"pyunionfs mounted but does not answer:\n{daemon.log()}") from None
    # An ordinary user's mount without allow_other refuses root; the refusal too is the kernel asking no
    # further.
    if child.returncode != 0 and b"ermission" not in problem:
        raise AssertionError(f"stat of the mount failed: {os.fsdecode(problem)}\n{daemon.log()}")


def _wait_for_command(process: subprocess.Popen[bytes], log_path: Path) -> None:
    try:
        status = process.wait(START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"pyunionfs mount did not return:\n{log_path.read_text()}") from None
    if status != 0:
        raise AssertionError(f"pyunionfs mount returned {status}:\n{log_path.read_text()}")


def daemon_end(daemon: Daemon) -> None:
    """Kill a daemon that must go now; not an error if it is gone already."""
    try:
        os.kill(daemon.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    if daemon.process is not None:
        daemon.process.wait(STOP_TIMEOUT)


def _detach(merged: Path) -> None:
    while any(kind.startswith("fuse") for kind in mount_types(merged)):
        umount(merged, lazy=True)


def _stop(daemon: Daemon, user: int | None) -> str | None:
    """Unmount and wait for the daemon. Returns what was wrong with the way it ended, or None."""
    complaint = None
    if daemon.expect_exit == 0 and any(kind.startswith("fuse") for kind in mount_types(daemon.merged)):
        try:
            done = subprocess.run(
                command("umount", str(daemon.merged)),
                capture_output=True,
                env=environment(),
                timeout=STOP_TIMEOUT,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
            if done.returncode != 0:
                complaint = f"pyunionfs umount returned {done.returncode}: {os.fsdecode(done.stderr)}"
        except subprocess.TimeoutExpired:
            complaint = "pyunionfs umount did not return"
    if daemon.process is not None and daemon.expect_exit == 0 and complaint is None:
        try:
            status = daemon.process.wait(STOP_TIMEOUT)
            if status != 0:
                complaint = f"the daemon exited with {status}"
        except subprocess.TimeoutExpired:
            complaint = "the daemon did not end after its unmount"
    _detach(daemon.merged)
    daemon_end(daemon)
    if complaint is None and "Traceback" in daemon.log():
        complaint = "the daemon logged a traceback"
    return None if complaint is None else f"{complaint}\n--- log of the daemon:\n{daemon.log()}"


# ----------------------------------------------------------------------------------------------------
# kernel overlayfs and scratch filesystems


@contextmanager
def overlayfs(
    lowers: Sequence[Path],
    upper: Path | None,
    work: Path | None,
    merged: Path,
    *,
    options: Sequence[str] = (),
    data_lowers: Sequence[Path] = (),
) -> Iterator[Path]:
    """Mount with kernel overlayfs; yields the mountpoint."""
    mount_overlayfs(lowers, upper, work, merged, options=options, data_lowers=data_lowers)
    try:
        yield merged
    finally:
        umount(merged)


def mount_overlayfs(
    lowers: Sequence[Path],
    upper: Path | None,
    work: Path | None,
    merged: Path,
    *,
    options: Sequence[str] = (),
    data_lowers: Sequence[Path] = (),
) -> None:
    """Mount with kernel overlayfs; the caller unmounts."""
    layers = "::".join([join_layers(lowers), *(join_layers([layer]) for layer in data_lowers)])
    data = ["lowerdir=" + layers.replace(",", "\\,")]
    if upper is not None:
        data += [f"upperdir={upper}", f"workdir={work}"]
    mount("overlay", merged, "overlay", 0, ",".join([*data, *options]))


MINIMUM_SIZES = {"ext4": 16 << 20, "xfs": 320 << 20, "btrfs": 128 << 20, "tmpfs": 1 << 20}
_MKFS = {
    # No lazy initialisation: the kernel thread that does it keeps a fresh image busy for minutes.
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@contextmanager
def loop_fs(
    kind: str, size: int = 0, *, directory: Path | None = None, words: Sequence[str] = ()
) -> Iterator[Path]:
    """A fresh filesystem of this kind (ext4, xfs, btrfs on a loop device, or tmpfs); yields its mountpoint.

    `size` is raised to the smallest that the filesystem can have. `words` are more ones for its mkfs.
    """
    base = Path(tempfile.mkdtemp(prefix=f"pyunionfs-{kind}-", dir=directory))
    try:
        where = base / "mnt"
        where.mkdir()
        if kind == "tmpfs":
            size = max(size, MINIMUM_SIZES[kind])
            mount("tmpfs", where, "tmpfs", 0, f"size={size},mode=755")
        else:
            image = base / "image"
            make_image(kind, image, size, words=words)
            mount_image(kind, image, where)
        try:
            yield where
        finally:
            umount(where)
    finally:
        shutil.rmtree(base)


def make_image(kind: str, image: Path, size: int = 0, *, words: Sequence[str] = ()) -> None:
    """A fresh filesystem of this kind in a file; the parameters are those of `loop_fs`."""
    with image.open("wb") as file:
        file.truncate(max(size, MINIMUM_SIZES[kind]))
    subprocess.run([*_MKFS[kind], *words, str(image)], check=True, stdout=subprocess.DEVNULL)


def mount_image(kind: str, image: Path, where: Path, *options: str) -> None:
    """Mount a filesystem that lies in a file; the loop device goes when the caller unmounts."""
    words = ",".join(["loop", *options])
    subprocess.run(["mount", "-t", kind, "-o", words, str(image), str(where)], check=True)


def supports_layers(directory: Path) -> bool:
    """Whether trusted xattrs and whiteouts can be made in this directory."""
    probe = Path(tempfile.mkdtemp(prefix=".probe-", dir=directory))
    try:
        os.setxattr(probe, "trusted.overlay.opaque", b"y")
        os.mknod(probe / "whiteout", 0o20000, os.makedev(0, 0))
    except OSError:
        return False
    finally:
        shutil.rmtree(probe)
    return True


def _remove(base: Path) -> None:
    """Remove a scratch directory, in which a daemon that is just ending may be clearing its work, too."""
    while True:
        try:
            shutil.rmtree(base)
            return
        except FileNotFoundError:
            if not base.exists():
                return


@contextmanager
def scratch(directory: Path | None = None) -> Iterator[Path]:
    """A directory that can hold layers: in `directory` if its filesystem can, else on a tmpfs of its own."""
    base = Path(tempfile.mkdtemp(prefix="pyunionfs-", dir=directory))
    try:
        if supports_layers(base):
            yield base
        else:
            with loop_fs("tmpfs", 1 << 30, directory=base) as where:
                yield where
    finally:
        _remove(base)
