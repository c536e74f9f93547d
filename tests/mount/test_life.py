"""The life of a mount, end to end: background, signals, unmounting, death and what is left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import (
    REPOSITORY,
    command,
    environment,
    mount_types,
    needs_fuse,
    needs_root,
    pyunionfs,
    scratch,
    status_pid,
    umount,
)
from unionfs.linux import process
from unionfs.linux.mount import mount_at

pytestmark = [needs_root, needs_fuse]

PATIENCE = 15.0
CAP_SYS_RESOURCE = 24


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Layers with one lower file, and a mountpoint; whatever a failed test leaves mounted is taken away."""
    with scratch(tmp_path) as where:
        for name in ("lower", "upper", "work", "merged"):
            (where / name).mkdir()
        (where / "lower" / "file").write_text("lower\n")
        try:
            yield where
        finally:
            while any(kind.startswith("fuse") for kind in mount_types(where / "merged")):
                umount(where / "merged", lazy=True)


def run(*words: str | Path, status: int = 0, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """One pyunionfs command, which must end with this status."""
    done = subprocess.run(
        command(*map(str, words)), capture_output=True, text=True, timeout=60, env=environment(), **keywords
    )
    assert done.returncode == status, f"{words} ended with {done.returncode}: {done.stderr}"
    return done


def mount(base: Path, *options: str) -> int:
    """Mount in the background; the daemon's pid."""
    run("mount", *options, base / "lower", base / "upper", base / "work", base / "merged")
    return status_pid(base / "merged")


def statuses(*words: str | Path) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = json.loads(run("status", "--json", *words).stdout)
    return answer


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def foreground(base: Path, *options: str) -> subprocess.Popen[str]:
    """A daemon in the foreground that serves."""
    words = ["mount", "-f", *options, *(str(base / name) for name in ("lower", "upper", "work", "merged"))]
    daemon = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, env=environment())
    assert daemon.stderr is not None
    line = daemon.stderr.readline()
    assert "is mounted" in line, line + daemon.stderr.read()
    return daemon


def test_mount_returns_when_it_serves_and_umount_when_it_is_gone(base: Path) -> None:
    pid = mount(base)
    assert mount_types(base / "merged") == ["fuse.pyunionfs"]
    assert (base / "merged" / "file").read_text() == "lower\n"
    (base / "merged" / "new").write_text("new")
    run("umount", base / "merged")
    assert gone(pid)
    assert mount_types(base / "merged") == []
    assert (base / "upper" / "new").read_text() == "new"
    assert os.listdir(base / "merged") == []


def test_the_daemon_has_left_the_terminal(base: Path) -> None:
    pid = mount(base)
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/comm").read_text() == "pyunionfs\n"
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == hard >= resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if process.has_capability(CAP_SYS_RESOURCE):
        assert soft >= min(int(Path("/proc/sys/fs/nr_open").read_text()), 1048576)
    run("umount", base / "merged")


def test_relative_paths_are_those_of_the_caller(base: Path) -> None:
    run("mount", "lower", "./upper", "work/", "../" + base.name + "/merged", cwd=base)
    assert (base / "merged" / "file").exists()
    run("umount", "merged", cwd=base)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_foreground_mount(base: Path, number: signal.Signals) -> None:
    daemon = foreground(base)
    (base / "merged" / "new").write_text("new")
    daemon.send_signal(number)
    _, log = daemon.communicate(timeout=PATIENCE)
    assert daemon.returncode == 0, log
    assert mount_types(base / "merged") == []
    assert (base / "upper" / "new").read_text() == "new"


def test_sighup_does_not_end_a_background_mount(base: Path) -> None:
    pid = mount(base)
    os.kill(pid, signal.SIGHUP)
    time.sleep(0.3)
    assert (base / "merged" / "file").read_text() == "lower\n"
    run("umount", base / "merged")


def test_a_signal_frees_the_mountpoint_and_finishes_open_files(base: Path) -> None:
    pid = mount(base)
    with (base / "merged" / "new").open("w") as file:
        os.kill(pid, signal.SIGTERM)
        assert eventually(lambda: mount_types(base / "merged") == [])
        [status] = [each for each in statuses() if each["pid"] == pid]
        assert (status["state"], status["open_handles"]) == ("detached", 1)
        file.write("written after the signal")
        file.flush()
        time.sleep(0.3)
        assert not gone(pid)
        file.write(", twice")
    assert eventually(lambda: gone(pid))
    assert (base / "upper" / "new").read_text() == "written after the signal, twice"


def test_a_second_signal_does_not_wait_for_open_files(base: Path) -> None:
    daemon = foreground(base)
    fd = os.open(base / "merged" / "file", os.O_RDONLY)
    try:
        daemon.send_signal(signal.SIGTERM)
        assert eventually(lambda: mount_types(base / "merged") == [])
        time.sleep(0.3)
        assert daemon.poll() is None
        started = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE) == 0
        assert time.monotonic() - started < 5
    finally:
        with contextlib.suppress(OSError):  # nobody is there any more to hear of it
            os.close(fd)
        assert daemon.stderr is not None
        daemon.stderr.close()


def test_a_working_directory_inside_does_not_hold_up_the_end(base: Path) -> None:
    daemon = foreground(base)
    (base / "merged" / "dir").mkdir()
    inside = subprocess.Popen(["sleep", "60"], cwd=base / "merged" / "dir")
    try:
        daemon.send_signal(signal.SIGTERM)
        _, log = daemon.communicate(timeout=PATIENCE)
        assert daemon.returncode == 0, log
        assert mount_types(base / "merged") == []
    finally:
        inside.kill()
        inside.wait()


def test_busy_is_said_with_who_and_nothing_is_unmounted(base: Path) -> None:
    mount(base)
    with (base / "merged" / "file").open():
        done = run("umount", base / "merged", status=1)
        assert f"{base}/merged is busy: in use by " in done.stderr
        assert f"(pid {os.getpid()})" in done.stderr
        assert f"pyunionfs umount --lazy {base}/merged" in done.stderr
        assert (base / "merged" / "file").read_text() == "lower\n"
    run("umount", base / "merged")


def test_busy_with_another_mount_inside(base: Path) -> None:
    mount(base)
    (base / "merged" / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", base / "merged" / "inner"], check=True)
    try:
        assert f"{base}/merged/inner is mounted in it" in run("umount", base / "merged", status=1).stderr
    finally:
        umount(base / "merged" / "inner")
    run("umount", base / "merged")


def test_lazy_unmounting_returns_at_once_and_open_files_go_on(base: Path) -> None:
    pid = mount(base)
    with (base / "merged" / "new").open("w") as file:
        run("umount", "--lazy", base / "merged")
        assert mount_types(base / "merged") == []
        assert not gone(pid)
        file.write("late")
    assert eventually(lambda: gone(pid))
    assert (base / "upper" / "new").read_text() == "late"


def test_the_systems_umount_ends_the_daemon_too(base: Path) -> None:
    daemon = foreground(base)
    umount(base / "merged")
    _, log = daemon.communicate(timeout=PATIENCE)
    assert daemon.returncode == 0, log


def test_after_sigkill_umount_mends_and_mounting_again_clears_up(base: Path) -> None:
    pid = mount(base)
    (base / "merged" / "new").write_text("new")
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: gone(pid))
    (base / "work" / "work" / "#123").mkdir()
    with pytest.raises(OSError):
        os.listdir(base / "merged")
    [status] = statuses(base / "merged")
    assert (status["state"], status["pid"]) == ("unreachable", None)
    assert "has died or is stuck" in run("status", base / "merged").stdout
    refusal = run("mount", *(base / name for name in ("lower", "upper", "work", "merged")), status=1).stderr
    assert "whose daemon has died" in refusal
    assert f"`pyunionfs umount {base}/merged` mends it" in refusal
    run("umount", base / "merged")
    assert mount_types(base / "merged") == []
    mount(base)
    assert (base / "merged" / "new").read_text() == "new"
    assert os.listdir(base / "work" / "work") == [] or "#123" not in os.listdir(base / "work" / "work")
    run("umount", base / "merged")


def test_nothing_is_left_in_the_control_directory(base: Path) -> None:
    before = set(os.listdir("/run/pyunionfs")) if os.path.isdir("/run/pyunionfs") else set()
    pid = mount(base)
    assert {name for name in os.listdir("/run/pyunionfs") if name.startswith(f"{pid}-")} - before
    assert os.stat("/run/pyunionfs").st_mode & 0o777 == 0o700
    run("umount", base / "merged")
    assert not {name for name in os.listdir("/run/pyunionfs") if name.startswith(f"{pid}-")}
    pid = mount(base)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: gone(pid))
    run("umount", base / "merged")
    run("status")
    assert not {name for name in os.listdir("/run/pyunionfs") if name.startswith(f"{pid}-")}


def test_status_tells_what_the_mount_is(base: Path) -> None:
    mount(base, "-o", "ro,noatime,redirect_dir=off,timeout=2")
    (base / "merged" / "file").read_text()
    [status] = statuses(base / "merged")
    assert status["state"] == "serving"
    assert status["mountpoint"] == f"{base}/merged"
    assert (status["lowers"], status["upper"]) == ([f"{base}/lower"], f"{base}/upper")
    assert status["work"] == f"{base}/work"
    assert status["options"] == ["ro", "noatime", "allow_other", "redirect_dir=off", "timeout=2"]
    assert 0 <= status["uptime"] < 60
    assert 1 << 20 < status["memory"] < 1 << 28
    assert status["requests"]["LOOKUP"] >= 1
    assert status["union"]["copy_ups"] == 0
    text = run("status").stdout
    assert f"{base}/merged\n  lowers    {base}/lower\n" in text
    run("umount", base / "merged")
    assert not [each for each in statuses() if each["mountpoint"] == f"{base}/merged"]


def test_counts_of_copy_ups(base: Path) -> None:
    mount(base)
    with (base / "merged" / "file").open("a") as file:
        file.write("more")
    assert statuses(base / "merged")[0]["union"]["copy_ups"] == 1
    run("umount", base / "merged")


def test_a_union_without_upper_is_read_only(base: Path) -> None:
    run("mount", f"{base}/lower:{base}/upper", base / "merged")
    with pytest.raises(OSError, match="Read-only"):
        (base / "merged" / "new").touch()
    assert (base / "merged" / "file").read_text() == "lower\n"
    assert "none: read-only" in run("status", base / "merged").stdout
    run("umount", base / "merged")
    assert os.listdir(base / "work") == []


@pytest.mark.parametrize("where", ["lower", "lower/dir", "upper", "upper/dir", ".."])
def test_mounting_over_a_layer_or_inside_one(base: Path, where: str) -> None:
    """The layers are reached beneath the mount. `..` is a directory that has all the layers below it."""
    (base / "lower" / "dir").mkdir()
    (base / "lower" / "dir" / "inner").write_text("inner")
    (base / "upper" / "dir").mkdir()
    merged = base if where == ".." else base / where
    with pyunionfs([base / "lower"], base / "upper", base / "work", merged):
        assert (merged / "file").read_text() == "lower\n"
        assert (merged / "dir" / "inner").read_text() == "inner"
        (merged / "dir" / "new").write_text("new")
        assert sorted(os.listdir(merged / "dir")) == ["inner", "new"]
    assert (base / "upper" / "dir" / "new").read_text() == "new"


def test_two_mounts_on_one_mountpoint_come_off_one_by_one(base: Path) -> None:
    for name in ("lower2", "upper2", "work2"):
        (base / name).mkdir()
    (base / "lower2" / "second").touch()
    first = mount(base)
    run("mount", base / "lower2", base / "upper2", base / "work2", base / "merged")
    second = status_pid(base / "merged")
    assert first != second
    assert os.listdir(base / "merged") == ["second"]
    run("umount", base / "merged")
    assert gone(second)
    assert os.listdir(base / "merged") == ["file"]
    assert status_pid(base / "merged") == first
    run("umount", base / "merged")
    assert gone(first)


def test_a_covered_mount_never_takes_away_what_covers_it(base: Path) -> None:
    daemon = foreground(base)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", base / "merged"], check=True)
    try:
        daemon.send_signal(signal.SIGTERM)
        _, log = daemon.communicate(timeout=PATIENCE)
        assert "is covered by another mount" in log
        assert mount_types(base / "merged")[-1] == "tmpfs"
    finally:
        umount(base / "merged")
    run("umount", base / "merged")


def test_the_mount_table_shows_the_options(base: Path) -> None:
    mount(base, "-o", r"ro,nodev,nosuid,noexec,noatime,fsname=my\, union")
    entry = mount_at(str(base / "merged"))
    assert entry is not None
    assert {"ro", "nodev", "nosuid", "noexec", "noatime"} <= set(entry.options)
    assert entry.source == "my, union"
    assert {"default_permissions", "allow_other", "user_id=0"} <= set(entry.super_options)
    run("umount", base / "merged")
    mount(base)
    entry = mount_at(str(base / "merged"))
    assert entry is not None
    assert not {"ro", "nodev", "nosuid", "noexec"} & set(entry.options)
    assert entry.source == "pyunionfs"
    run("umount", base / "merged")


def test_devices_and_setuid_bits_are_as_on_overlayfs(base: Path) -> None:
    mount(base)
    os.mknod(base / "merged" / "null", 0o20666, os.makedev(1, 3))
    assert (base / "merged" / "null").read_bytes() == b""
    run("umount", base / "merged")
    mount(base, "-o", "nodev")
    with pytest.raises(PermissionError):
        (base / "merged" / "null").read_bytes()
    run("umount", base / "merged")


def test_a_default_acl_overrides_the_umask(base: Path) -> None:
    """The kernel must hand over creation modes unmasked, which it does when mounted with MS_POSIXACL."""
    entries = [(1, 7, -1), (4, 7, -1), (32, 7, -1)]  # user, group and others: rwx
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged"):
        directory = base / "merged" / "dir"
        directory.mkdir()
        os.setxattr(directory, "system.posix_acl_default", acl)
        old = os.umask(0o077)
        try:
            (directory / "file").touch(0o666)
            (directory / "sub").mkdir(0o777)
            (base / "merged" / "plain").touch(0o666)
        finally:
            os.umask(old)
        assert (directory / "file").stat().st_mode & 0o777 == 0o666
        assert (directory / "sub").stat().st_mode & 0o777 == 0o777
        assert (base / "merged" / "plain").stat().st_mode & 0o777 == 0o600


def test_the_log_file_has_the_life_and_with_debug_the_requests(base: Path) -> None:
    log = base / "log"
    mount(base, "--log-file", str(log), "-o", "debug")
    assert statuses(base / "merged")[0]["log"] == str(log)
    run("umount", base / "merged")
    text = log.read_text()
    assert f"{base}/merged is mounted: upper {base}/upper" in text
    assert f"{base}/merged is unmounted" in text


def program(patch: str, base: Path, *options: str) -> list[str]:
    """A pyunionfs whose transport has been changed first, to see what a bug does."""
    words = ["mount", *options, *(str(base / name) for name in ("lower", "upper", "work", "merged"))]
    lines = ["import sys, trio, unionfs.transport.pyfuse3 as t", patch, "from unionfs.cli import main"]
    return [sys.executable, "-c", "\n".join([*lines, f"sys.exit(main({words!r}))"])]


LOOP_BUG = """
async def serve(self, real=t.Session.serve):
    with trio.move_on_after(0.7):
        await real(self)
    raise ValueError("a bug in the loop")
t.Session.serve = serve
"""

START_BUG = """
def init(self, union, fd):
    raise ValueError("a bug at the start")
t.Session.__init__ = init
"""

MUTE = """
async def serve(self):
    await trio.sleep(0.3)
t.Session.serve = serve
"""


def test_a_bug_in_the_loop_unmounts_and_is_logged(base: Path) -> None:
    done = subprocess.run(
        program(LOOP_BUG, base, "-f"), cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "ValueError: a bug in the loop" in done.stderr
    assert mount_types(base / "merged") == []
    mount(base)
    run("umount", base / "merged")


@pytest.mark.parametrize("options", [(), ("-f",)])
@pytest.mark.parametrize("volatile", [False, True])
def test_a_bug_at_the_start_leaves_nothing(base: Path, options: tuple[str, ...], volatile: bool) -> None:
    if volatile:
        options = (*options, "-o", "volatile")
    done = subprocess.run(
        program(START_BUG, base, *options),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "a bug in pyunionfs, ValueError: a bug at the start" in done.stderr
    assert mount_types(base / "merged") == []
    assert os.listdir(base / "work") == []
    assert os.listdir(base / "upper") == []
    place = done.stderr.rpartition(" went to ")[2].strip()
    if place.startswith("/run/pyunionfs/"):
        assert "a bug at the start" in Path(place).read_text()
        os.unlink(place)


def test_a_daemon_that_ends_before_it_answers_is_not_a_success(base: Path) -> None:
    done = subprocess.run(
        program(MUTE, base), cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "before it served" in done.stderr or "cannot mount" in done.stderr
    assert mount_types(base / "merged") == []


def test_a_copy_in_another_mount_namespace_is_told_of(base: Path) -> None:
    pid = mount(base)
    elsewhere = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "60"])
    try:
        assert eventually(lambda: Path(f"/proc/{elsewhere.pid}/comm").read_text() == "sleep\n")
        complaint = run("umount", base / "merged", status=1).stderr
        assert "still serves it in another mount namespace" in complaint
        assert mount_types(base / "merged") == []
        assert not gone(pid)
    finally:
        elsewhere.kill()
        elsewhere.wait()
    assert eventually(lambda: gone(pid))
