"""Ends of a mount that are not plain: bound or moved elsewhere, a daemon that is busy, hidden, or short of
descriptors.

What is waited for, and what is said, is what a user of `pyunionfs` sees; nothing here looks into the daemon.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing import processes
from tests.mount.rig import eventually, foreground, gone, mount, program, run, statuses
from tests.support import transports
from tests.support.mounts import (
    REPOSITORY,
    command,
    environment,
    mount_types,
    needs_fuse,
    needs_root,
    status_pid,
    umount,
)

pytestmark = [needs_root, needs_fuse]

SLOW_COPY = """
import time
from unionfs.overlay import copy_up
def run(self, real=copy_up.FileCopyUp.run):
    time.sleep(2)
    real(self)
copy_up.FileCopyUp.run = run
"""

SLOW_SYNC = """
import time
from unionfs.overlay.super import Union
def syncfs(self, real=Union.syncfs):
    time.sleep(2)
    real(self)
Union.syncfs = syncfs
"""


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    target.mkdir()
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        while mount_types(target):
            umount(target, lazy=True)


def test_the_daemon_holds_nothing_that_its_caller_had_open(base: Path) -> None:
    lock = os.open(base / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    reader, writer = os.pipe()
    words = [base / "lower", base / "upper", base / "work", base / "merged"]
    run("mount", *words, pass_fds=(lock, writer))
    os.close(lock)
    os.close(writer)
    try:
        again = os.open(base / "lock", os.O_RDWR)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""
        # Its own locks it does hold.
        (base / "other").mkdir()
        complaint = run("mount", *words[:3], base / "other", status=1).stderr
        assert "is in use by the mount on " in complaint
    finally:
        os.close(reader)
        run("umount", base / "merged")


def test_a_signal_waits_for_who_waits_for_a_copy_up(base: Path) -> None:
    daemon = subprocess.Popen(
        program(SLOW_COPY, base, "-f"), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert daemon.stderr is not None
    assert "is mounted" in daemon.stderr.readline()
    answers: list[int | OSError] = []

    def change() -> None:
        try:
            with open(base / "merged" / "file", "r+b", buffering=0) as file:
                answers.append(file.write(b"upper"))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    time.sleep(0.5)
    daemon.send_signal(signal.SIGTERM)
    _, log = daemon.communicate(timeout=20)
    thread.join()
    assert daemon.returncode == 0, log
    assert answers == [5]
    assert (base / "upper" / "file").read_text() == "upper\n"


def test_a_signal_frees_every_place_where_the_mount_is(base: Path) -> None:
    daemon = foreground(base)
    (base / "merged" / "dir").mkdir()
    with bound(base / "merged", base / "second"), bound(base / "merged" / "dir", base / "third"):
        daemon.send_signal(signal.SIGTERM)
        _, log = daemon.communicate(timeout=20)
        assert daemon.returncode == 0, log
        assert [mount_types(base / name) for name in ("merged", "second", "third")] == [[], [], []]


def test_a_signal_frees_a_mount_whose_directory_was_renamed(base: Path) -> None:
    (base / "build" / "merged").mkdir(parents=True)
    words = [str(base / name) for name in ("lower", "upper", "work", "build/merged")]
    run("mount", *words)
    pid = status_pid(base / "build" / "merged")
    (base / "build").rename(base / "old")
    try:
        os.kill(pid, signal.SIGTERM)
        assert eventually(lambda: gone(pid))
        assert mount_types(base / "old" / "merged") == []
        assert os.listdir(base / "old" / "merged") == []
    finally:
        while mount_types(base / "old" / "merged"):
            umount(base / "old" / "merged", lazy=True)


def test_umount_names_where_else_the_mount_is(base: Path) -> None:
    pid = mount(base)
    with bound(base / "merged", base / "second"):
        started = time.monotonic()
        complaint = run("umount", base / "merged", status=1).stderr
        assert time.monotonic() - started < 4
        assert f"{base}/merged is unmounted, but {base}/second shows the same union" in complaint
        assert f"`pyunionfs umount {base}/second` ends it" in complaint
        assert not gone(pid)
        run("umount", base / "second")
        assert gone(pid)


def test_umount_from_a_pid_namespace_waits_for_the_daemon_too(base: Path) -> None:
    subprocess.run(program(SLOW_SYNC, base), cwd=REPOSITORY, env=environment(), check=True)
    pid = status_pid(base / "merged")
    started = time.monotonic()
    done = subprocess.run(
        ["unshare", "--pid", "--fork", *command("umount", str(base / "merged"))],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    waited = time.monotonic() - started
    assert (done.returncode, done.stderr) == (0, "")
    assert eventually(lambda: gone(pid))
    assert waited > 1


def test_umount_waits_for_a_daemon_that_does_not_answer(base: Path) -> None:
    pid = mount(base)
    processes.stop(pid)
    waiting = subprocess.Popen(
        command("umount", str(base / "merged")), stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert eventually(lambda: mount_types(base / "merged") == [])
        time.sleep(0.5)
        assert waiting.poll() is None
    finally:
        os.kill(pid, signal.SIGCONT)
        _, complaint = waiting.communicate(timeout=20)
    assert (waiting.returncode, complaint) == (0, "")
    assert gone(pid)


def test_status_of_a_daemon_that_does_not_answer_has_its_pid(base: Path) -> None:
    pid = mount(base)
    processes.stop(pid)
    try:
        assert f"pid {pid} hangs" in run("status", base / "merged").stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    run("umount", base / "merged")


def test_a_mount_of_another_mount_namespace_is_not_called_unmounted(base: Path) -> None:
    script = (
        '"$0" -m unionfs mount -o "transport=$2" "$1/lower" "$1/upper" "$1/work" "$1/merged"'
        " && echo mounted && read -r line"
    )
    elsewhere = subprocess.Popen(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            sys.executable,
            str(base),
            transports.chosen(),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert elsewhere.stdout is not None
    assert elsewhere.stdout.readline() == "mounted\n"
    try:
        [status] = [each for each in statuses() if each["mountpoint"] == f"{base}/merged"]
        assert status["state"] == "detached"
        text = run("status").stdout
        files = "files may be open" if status["silent_opens"] else "0 files open"
        assert f"{base}/merged: not mounted in this mount namespace, {files}\n" in text
    finally:
        # It lives in that namespace itself, which would hold the mount for ever.
        os.kill(status["pid"], signal.SIGTERM)
        elsewhere.communicate("\n", timeout=20)
    assert eventually(lambda: gone(status["pid"]))


def mount_with_few_descriptors(base: Path, *options: str) -> int:
    """Mount 300 files by a daemon that may open 128 and not raise that; its pid."""
    for number in range(300):
        (base / "lower" / str(number)).touch()
    # setpriv: who may raise limits has no shortage.
    few = ["setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]
    words = ["mount", "--log-file", str(base / "log"), *options]
    words += [str(base / name) for name in ("lower", "upper", "work", "merged")]
    subprocess.run(
        ["prlimit", "--nofile=128:128", *few, *command(*words)], check=True, env=environment(), timeout=30
    )
    pid = status_pid(base / "merged")
    if resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] != 128:
        run("umount", base / "merged")
        pytest.skip("the limit of descriptors cannot be lowered here")
    return pid


@transports.one_transport
def test_open_files_without_limit_where_the_kernel_opens_them_by_itself(base: Path) -> None:
    """What the daemon has open for its data is no more than it may, however many files are open."""
    mount_with_few_descriptors(base, "-o", "transport=direct,passthrough=off")
    paths = [base / "merged" / str(number) for number in range(300)]
    held = [os.open(path, os.O_RDWR) for path in paths]
    try:
        for number, fd in enumerate(held):
            os.write(fd, b"%d" % number)
            os.fsync(fd)
        for number, fd in enumerate(held):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, 10, 0) == b"%d" % number
    finally:
        for fd in held:
            os.close(fd)
    run("umount", base / "merged")


def test_questions_while_descriptors_are_short_do_not_end_the_mount(base: Path) -> None:
    pid = mount_with_few_descriptors(base)
    held: list[int] = []
    try:
        with pytest.raises(OSError, match="Too many open files in system") as refused:
            for number in range(300):
                held.append(os.open(base / "merged" / str(number), os.O_RDWR))
        # EMFILE would say that it is this process that has too many.
        assert refused.value.errno == errno.ENFILE
        for _ in range(3):
            run("status")
            os.close(held.pop())
            time.sleep(0.3)
        assert os.pread(held[0], 1, 0) == b""
        assert not gone(pid)
    finally:
        for fd in held:
            os.close(fd)
    assert status_pid(base / "merged") == pid
    run("umount", base / "merged")
    assert "unhandled exception" not in (base / "log").read_text()
