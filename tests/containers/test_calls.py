"""The calls of other programs that know fuse-overlayfs by its name: Docker, containerd and apptainer.

None of them is run here (Docker wants a machine to itself, the others are not in Debian): each test does what
its source does, word for word.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import eventually, gone
from tests.support import programs
from tests.support.mounts import mount_types, needs_fuse, needs_root, scratch, status_pid, umount
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

MOUNT_FUSE3 = shutil.which("mount.fuse3", path="/sbin:/usr/sbin")
USERS_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture
def home() -> Iterator[Path]:
    """A store of layers as Docker and containerd/storage keep them, and `fuse-overlayfs` in bin."""
    with scratch() as where:
        for name in ("bin", "l", "base/diff/dir", "top/diff", "one/diff", "one/work", "one/merged"):
            (where / name).mkdir(parents=True)
        for name in ("base", "top"):
            (where / "l" / name.upper()).symlink_to(f"../{name}/diff")
        (where / "base/diff/file").write_text("base\n")
        (where / "base/diff/deleted").write_text("base\n")
        (where / "base/diff/dir/below").write_text("base\n")
        (where / "top/diff/.wh.deleted").touch()
        (where / "top/diff/dir").mkdir()
        (where / "top/diff/dir/.wh..wh..opq").touch()
        (where / "top/diff/dir/above").write_text("top\n")
        programs.write(where / "bin/pyunionfs")
        (where / "bin/fuse-overlayfs").symlink_to("pyunionfs")
        try:
            yield where
        finally:
            while mount_types(where / "one/merged"):
                umount(where / "one/merged", lazy=True)


def call(home: Path, *words: str | Path, cwd: Path | None = None) -> None:
    """Run a command, read what it says to the end, and have it end well and say nothing."""
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={**os.environ, "PATH": f"{home}/bin:/usr/sbin:/sbin:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")


def check_tree(merged: Path) -> None:
    assert mount_types(merged) == ["fuse.pyunionfs"]
    assert sorted(path.name for path in merged.iterdir()) == ["dir", "file"]
    assert os.listdir(merged / "dir") == ["above"]


def check_gone(home: Path, pid: int) -> None:
    assert mount_types(home / "one/merged") == []
    assert eventually(lambda: gone(pid))


def test_docker(home: Path) -> None:
    """moby daemon/graphdriver/fuse-overlayfs/fuseoverlayfs.go: Get and Put."""
    merged = home / "one/merged"
    lowers = f"{home}/l/TOP:{home}/l/BASE"
    data = f"lowerdir={lowers},upperdir={home}/one/diff,workdir={home}/one/work"
    for turn in range(2):
        merged.mkdir(exist_ok=True)
        call(home, "fuse-overlayfs", "-o", data, merged, cwd=home)
        check_tree(merged)
        (merged / "dir/above").write_text(f"changed {turn}\n")
        pid = status_pid(merged)
        call(home, "fusermount3", "-u", merged)
        merged.rmdir()
        check_gone(home, pid)
    assert (home / "one/diff/dir/above").read_text() == "changed 1\n"
    # A layer that is an image's by now: no upper.
    merged.mkdir()
    call(home, "fuse-overlayfs", "-o", f"lowerdir={home}/one/diff:{lowers}", merged, cwd=home)
    assert (merged / "dir/above").read_text() == "changed 1\n"
    with pytest.raises(OSError, match="Read-only"):
        (merged / "dir/above").write_text("x")
    call(home, "fusermount3", "-u", merged)


@pytest.mark.skipif(MOUNT_FUSE3 is None, reason="no mount.fuse3 (package fuse3)")
def test_containerd(home: Path) -> None:
    """containerd mount/mount_linux.go: mountWithHelper, for fuse-overlayfs-snapshotter's type and options."""
    assert MOUNT_FUSE3 is not None
    merged = home / "one/merged"
    options = [
        f"workdir={home}/one/work",
        f"upperdir={home}/one/diff",
        f"lowerdir={home}/top/diff:{home}/base/diff",
        "writeback=0",
    ]
    words = [word for option in options for word in ("-o", option)]
    call(home, MOUNT_FUSE3, "overlay", merged, *words, "-t", "fuse-overlayfs")
    check_tree(merged)
    (merged / "new").write_text("new\n")
    pid = status_pid(merged)
    call(home, "fusermount3", "-u", merged)
    check_gone(home, pid)
    assert (home / "one/diff/new").read_text() == "new\n"


@pytest.mark.skipif(MOUNT_FUSE3 is None, reason="no mount.fuse3 (package fuse3)")
def test_a_refusal_reaches_the_caller_of_mount_fuse3(home: Path) -> None:
    assert MOUNT_FUSE3 is not None
    done = subprocess.run(
        [MOUNT_FUSE3, "overlay", home / "one/merged", "-o", "lowerdir=/no/where", "-t", "fuse-overlayfs"],
        env={**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "pyunionfs: lower /no/where does not exist: create it, or correct the path\n"


APPTAINER = """
fuse-overlayfs -f -o "$1" "$2" > "$3/said" 2>&1 &
for turn in $(seq 80); do
    sleep 0.025
    mountpoint -q "$2" && break
    kill -0 $! || exit 10
done
set -e
test "$(stat -f -c %T "$2")" = fuseblk -o "$(stat -f -c %T "$2")" = fuse
echo changed > "$2/file"
chmod 4711 "$2/file"
rm "$2/dir/above"
umount -l "$2"
wait $!
"""


@pytest.mark.skipif(
    subprocess.run([*USERS_NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="the kernel gives no user namespaces",
)
def test_apptainer(home: Path) -> None:
    """apptainer internal/pkg/image/driver/imagedriver.go: in a user namespace, in the foreground; it looks at
    the mount table for two seconds, and gives it one to end."""
    merged = home / "one/merged"
    options = (
        f"allow_other,lowerdir={home}/l/TOP:{home}/l/BASE,upperdir={home}/one/diff,workdir={home}/one/work"
    )
    call(home, *USERS_NAMESPACE, "sh", "-c", APPTAINER, "sh", options, merged, home)
    assert mount_types(merged) == []
    assert (home / "one/diff/file").read_text() == "changed\n"
    assert (home / "one/diff/file").stat().st_mode & 0o7777 == 0o4711
    assert (home / "one/diff/dir/above").is_char_device()
    assert "user.overlay.origin" in os.listxattr(home / "one/diff/file")


def test_without_whiteout_devices(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT, for an upper that others will read who know no devices."""
    monkeypatch.setenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "1")
    merged = home / "one/merged"
    data = f"lowerdir={home}/l/BASE,upperdir={home}/one/diff,workdir={home}/one/work"
    call(home, "fuse-overlayfs", "-o", data, merged)
    (merged / "file").unlink()
    shutil.rmtree(merged / "dir")
    (merged / "dir").mkdir()
    assert sorted(os.listdir(merged)) == ["deleted", "dir"]
    assert os.listdir(merged / "dir") == []
    umount(merged)
    names = sorted(str(path.relative_to(home / "one/diff")) for path in (home / "one/diff").rglob("*"))
    assert names == [".wh.file", "dir", "dir/.wh..wh..opq"]
    assert all((home / "one/diff" / name).is_file() for name in names if ".wh." in name)


def test_python_is_the_one_of_this_checkout(home: Path) -> None:
    """The mount program that these tests use is what they are meant to test."""
    words = [str(home / "bin/fuse-overlayfs"), "--version"]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
    assert said.startswith("pyunionfs ")
    assert Path((home / "bin/pyunionfs").read_text().splitlines()[0].split()[0][2:]) == Path(sys.executable)
