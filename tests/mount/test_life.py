"""The life of a mount, end to end: background, signals, unmounting, death and what is left afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from testing import processes
from tests.mount.rig import PATIENCE, eventually, foreground, gone, mount, run, statuses
from tests.support.mounts import (
    command,
    environment,
    mount_types,
    needs_fuse,
    needs_root,
    pyunionfs,
    status_pid,
    umount,
)
from unionfs.linux import process
from unionfs.linux.mount import mount_at

pytestmark = [needs_root, needs_fuse]

CAP_SYS_RESOURCE = 24


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
        assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (resource.RLIM_INFINITY,) * 2
    run("umount", base / "merged")


def test_the_limit_of_a_file_is_the_writers_and_not_that_of_who_has_mounted(base: Path) -> None:
    """Its soft one, which the daemon may raise; a writer meets its own (EFBIG) before the daemon is asked."""
    words = ["mount", *(str(base / name) for name in ("lower", "upper", "work", "merged"))]
    subprocess.run(["prlimit", "--fsize=4096:", *command(*words)], check=True, env=environment(), timeout=30)
    path = base / "merged" / "large"
    path.write_bytes(bytes(100_000))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    assert (base / "upper" / "large").stat().st_size == 100_000
    limited = f"trap '' XFSZ; ulimit -f 1; exec dd if=/dev/zero of='{path}' bs=4k count=1"
    done = subprocess.run(["sh", "-c", limited], capture_output=True, text=True)
    assert "File too large" in done.stderr
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


def test_signals_that_come_together_are_all_heeded(base: Path) -> None:
    pid = mount(base)
    processes.stop(pid)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
        os.kill(pid, number)
    assert eventually(lambda: gone(pid))
    assert mount_types(base / "merged") == []


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


def test_a_command_in_the_mount_is_not_named_among_who_keeps_it_busy(base: Path) -> None:
    """Nor for its working directory, nor for what it has inherited."""
    mount(base)
    with (base / "merged" / "file").open() as inherited:
        fds = (inherited.fileno(),)
        done = run("umount", ".", cwd=base / "merged", pass_fds=fds, status=1)
    assert re.findall(r"\(pid (\d+)\)", done.stderr) == [str(os.getpid())]
    run("umount", ".", cwd=base / "merged")
    assert mount_types(base / "merged") == []


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
    assert "it was killed or hangs" in run("status", base / "merged").stdout
    refusal = run("mount", *(base / name for name in ("lower", "upper", "work", "merged")), status=1).stderr
    assert "the daemon of the FUSE mount there has died" in refusal
    assert f"unmount that with `pyunionfs umount {base}/merged`" in refusal
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


def test_status_tells_what_the_mount_is(base: Path, transport: str) -> None:
    mount(base, "-o", "ro,noatime,redirect_dir=off,timeout=2")
    (base / "merged" / "file").read_text()
    [status] = statuses(base / "merged")
    assert status["state"] == "serving"
    assert status["mountpoint"] == f"{base}/merged"
    assert (status["lowers"], status["upper"]) == ([f"{base}/lower"], f"{base}/upper")
    assert status["work"] == f"{base}/work"
    words = ["ro", "noatime", "redirect_dir=off", "timeout=2", f"transport={transport}"]
    assert status["options"] == words
    assert status["transport"] == transport
    assert ("DO_READDIRPLUS" in status["flags"]) == (transport == "direct")
    assert 0 <= status["uptime"] < 60
    assert 1 << 20 < status["memory"] < 1 << 28
    assert status["requests"]["LOOKUP"] >= 1
    assert status["union"]["copy_ups"] == 0
    text = run("status", base / "merged").stdout
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
    assert "none (read-only)" in run("status", base / "merged").stdout
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
