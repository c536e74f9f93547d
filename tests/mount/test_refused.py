"""Every refusal as a user meets it: exit status, one line, nothing mounted, directories as they were.

What `overlay/check.py` refuses is tested finely in tests/cli/test_check.py; here it goes through the command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import (
    command,
    environment,
    mount,
    mount_types,
    mounted,
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    pyunionfs,
    scratch,
    umount,
)
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

STACK = ("lower", "upper", "work", "merged")


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    with scratch(tmp_path) as where:
        for name in (*STACK, "other"):
            (where / name).mkdir()
        (where / "file").write_text("content")
        yield where


def state(base: Path) -> list[tuple[str, int, int]]:
    """Every name with mode and time of change. The mountpoint is not touched: it may be dead or stuck."""
    found = []
    for where, directories, files in os.walk(base):
        if "merged" in directories:
            directories.remove("merged")
        for name in (*directories, *files):
            st = os.lstat(os.path.join(where, name))
            found.append((os.path.join(where, name), st.st_mode, st.st_mtime_ns))
    return sorted(found)


def refused(base: Path, words: list[str], prefix: tuple[str, ...] = (), status: int = 1) -> str:
    """The complaint of `pyunionfs mount` with these words, in the background and in front."""
    before, mounted = state(base), mount_types(base / "merged")
    lines = set()
    for front in ([], ["-f"]):
        done = subprocess.run(
            [*prefix, *command("mount", *front, *words)],
            cwd=base,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
        assert done.returncode == status, done.stderr
        complaints = [line for line in done.stderr.splitlines() if line.startswith("pyunionfs: ")]
        assert len(complaints) == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert not front or done.stdout == ""
        lines.add(complaints[0])
        assert state(base) == before
        assert mount_types(base / "merged") == mounted
    assert len(lines) == 1, lines
    return lines.pop().removeprefix("pyunionfs: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none", *STACK[1:]], "lower {base}/none does not exist: create it, or correct the path"),
        (["lower:none", *STACK[1:]], "lower {base}/none does not exist"),
        (["file", *STACK[1:]], "lower {base}/file is not a directory"),
        (["none", "merged"], "lower {base}/none does not exist"),
        (["lower", "none", "work", "merged"], "upper {base}/none does not exist"),
        (["lower", "file", "work", "merged"], "upper {base}/file is not a directory"),
        (["lower", "upper", "none", "merged"], "work {base}/none does not exist"),
        (["lower", "upper", "upper", "merged"], "upper and work are the same directory"),
        (["lower", "upper", "lower", "merged"], "work {base}/lower is also the lower"),
        (["lower", "lower", "work", "merged"], "upper {base}/lower is also the lower {base}/lower"),
        (["lower:.", "upper", "work", "merged"], "upper {base}/upper lies inside the lower {base}"),
        (["lower", "upper", ".", "merged"], "upper {base}/upper is inside work {base}"),
        (["lower", "upper", "/proc", "merged"], "are on different filesystems"),
        (["lower", "upper", "work", "none"], "the mountpoint {base}/none does not exist: create it"),
        (["lower", "upper", "work", "file"], "the mountpoint {base}/file is not a directory"),
        (["lower", "upper", "work", "work"], "the mountpoint {base}/work is in work"),
        (["--log-file", "none/log", *STACK], "cannot write the log file {base}/none/log"),
    ],
)
def test_directories(base: Path, words: list[str], says: str) -> None:
    assert says.format(base=base) in refused(base, words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "blue", *STACK], "unknown mount option 'blue'"),
        (["-o", "timeout=never", *STACK], "invalid value 'never' of mount option timeout"),
        (["-o", "metacopy=on,redirect_dir=off", *STACK], "metacopy=on and redirect_dir=off conflict"),
        (["lower", "upper", "merged"], "three directories were given"),
        (["lower:::other", *STACK[1:]], "empty entry"),
        (["lower\\", *STACK[1:]], "backslash at the end"),
    ],
)
def test_command_lines(base: Path, words: list[str], says: str) -> None:
    assert says in refused(base, words, status=2)


def test_a_work_with_other_peoples_files(base: Path) -> None:
    (base / "work" / "precious").write_text("content")
    assert "it holds precious" in refused(base, [*STACK])


def test_upper_and_work_of_a_mount_that_lives(base: Path) -> None:
    (base / "other" / "w").mkdir()
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "other"):
        says = f"upper {base}/upper is in use by the mount on "
        assert says in refused(base, [*STACK])
        (base / "second").mkdir()
        says = f"work {base}/work is in use by the mount on "
        assert says in refused(base, ["lower", "second", "work", "merged"])
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged"):
        pass


@needs_overlayfs
def test_upper_of_a_kernel_mount(base: Path) -> None:
    with overlayfs([base / "lower"], base / "upper", base / "work", base / "other"):
        assert f"in use by kernel overlayfs mounted at {base}/other" in refused(base, [*STACK])


@pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="needs fuse-overlayfs")
def test_upper_of_fuse_overlayfs(base: Path) -> None:
    layers = ",".join(f"{kind}dir={base / kind}" for kind in ("lower", "upper", "work"))
    subprocess.run(["fuse-overlayfs", "-o", layers, base / "other"], check=True)
    try:
        assert "in use by fuse-overlayfs" in refused(base, [*STACK])
    finally:
        umount(base / "other")


def test_after_a_volatile_mount(base: Path) -> None:
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged", options=["volatile"]):
        # While it lives the mark is no reason: the advice to remove it would be harmful then.
        assert "in use by the mount on " in refused(base, ["lower", "upper", "work", "other"])
        (base / "merged" / "new").touch()
    for options in ([], ["-o", "volatile"]):
        line = refused(base, [*options, *STACK])
        assert "was used by a volatile mount" in line
        assert f"`pyunionfs check LOWERS {base}/upper {base}/work`" in line
    shutil.rmtree(base / "work" / "work" / "incompat")
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged"):
        assert (base / "merged" / "new").exists()


@needs_overlayfs
def test_a_volatile_mark_of_ours_is_understood_by_the_kernel(base: Path) -> None:
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged", options=["volatile"]):
        pass
    with (
        pytest.raises(OSError),
        overlayfs([base / "lower"], base / "upper", base / "work", base / "merged"),
    ):
        pass


@pytest.mark.parametrize("kind", ["dead", "stuck"])
def test_a_mountpoint_whose_fuse_daemon_is(base: Path, kind: str) -> None:
    for name in ("upper2", "work2"):
        (base / name).mkdir()
    with pyunionfs([base / "lower"], base / "upper2", base / "work2", base / "merged") as daemon:
        os.kill(daemon.pid, signal.SIGKILL if kind == "dead" else signal.SIGSTOP)
        try:
            if kind == "dead":
                assert daemon.process is not None
                daemon.process.wait()
                line = refused(base, [*STACK])
                assert "the daemon of the FUSE mount there has died" in line
                assert line.endswith(f"unmount that with `pyunionfs umount {base}/merged`")
            else:
                line = refused(base, [*STACK])
                assert "the daemon of the FUSE mount there does not reply" in line
                assert f"`pyunionfs umount --lazy {base}/merged`" in line
        finally:
            if kind == "stuck":
                os.kill(daemon.pid, signal.SIGCONT)
            else:
                daemon.expect_exit = -signal.SIGKILL
                umount(base / "merged", lazy=True)


def test_a_mountpoint_whose_server_has_read_the_request_and_keeps_it(base: Path) -> None:
    """The kernel lets nobody go then, not even by SIGKILL."""
    device = os.open("/dev/fuse", os.O_RDWR)
    mount("stuck", base / "merged", "fuse.stuck", 0, f"fd={device},rootmode=40000,user_id=0,group_id=0")
    try:
        unique = struct.unpack_from("<Q", os.read(device, 1 << 20), 8)[0]
        answer = struct.pack("<IIIIHHII36x", 7, 31, 65536, 0, 0, 0, 65536, 0)
        os.write(device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)
        reader = threading.Thread(target=_read_all, args=(device,))
        reader.start()
        line = refused(base, [*STACK])
        assert "the daemon of the FUSE mount there does not reply" in line
        assert f"`umount --lazy {base}/merged`" in line
    finally:
        # -f: an unmount alone leaves those who wait.
        subprocess.run(["umount", "-f", base / "merged"], check=False, stderr=subprocess.DEVNULL)
        umount(base / "merged", lazy=True) if mount_types(base / "merged") else None
        reader.join(10)
        os.close(device)


def _read_all(device: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            os.read(device, 1 << 20)


@pytest.fixture
def namespace(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """A prefix that runs a command in a mount namespace of its own, after this shell script."""

    def prefix(script: str) -> tuple[str, ...]:
        return ("unshare", "--mount", "bash", "-ec", f'{script}\nexec "$@"', "bash")

    return prefix


def test_no_fuse_device(base: Path, namespace: Callable[[str], tuple[str, ...]]) -> None:
    # The directory of devices, without the device.
    prefix = namespace("mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3")
    line = refused(base, [*STACK], prefix)
    assert "this system has no /dev/fuse" in line
    assert "modprobe fuse" in line
    assert refused(base, ["-o", "volatile", *STACK], prefix) == line


def test_without_privilege_and_without_fusermount(
    base: Path, namespace: Callable[[str], tuple[str, ...]]
) -> None:
    places = "/bin /usr/bin /usr/local/bin"
    hide = f"for p in {places}; do f=$p/fusermount3; [ ! -e $f ] || mount --bind /dev/null $f; done"
    unprivileged = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    prefix = (*namespace(hide)[:-1], "bash", *unprivileged)
    line = refused(base, [*STACK], prefix)
    assert "needs fusermount3, which is not installed" in line
    assert "package fuse3" in line


def test_upper_on_a_filesystem_without_marks(base: Path) -> None:
    where = base / "ramfs"
    where.mkdir()
    with mounted("ramfs", where):
        for name in ("u", "w"):
            (where / name).mkdir()
        line = refused(base, ["lower", "ramfs/u", "ramfs/w", "merged"])
        assert "cannot hold trusted.* extended attributes" in line
        assert os.listdir(where / "w") == []


def test_a_mount_that_is_not_ours_is_not_unmounted(base: Path) -> None:
    with mounted("tmpfs", base / "merged"):
        done = subprocess.run(
            command("umount", str(base / "merged")),
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert done.returncode == 1
        assert "is a tmpfs mount and not pyunionfs's: use `umount` for it" in done.stderr
        assert mount_types(base / "merged") == ["tmpfs"]
