"""A mount by fuse-overlayfs's command line: what its callers rely on beside the options."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import eventually, gone, run, statuses
from tests.support import transports
from tests.support.mounts import command, environment, mount_types, needs_fuse, needs_root, status_pid, umount
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse]


def engine(
    base: Path, *words: str, lowers: str = "lower", options: str = "", wait: float = 30
) -> subprocess.CompletedProcess[str]:
    """What container engines do: start it with pipes, and read these to their ends."""
    layers = f"lowerdir={lowers},upperdir=upper,workdir=work,transport={transports.chosen()},{options}"
    return subprocess.run(
        command(*words, "-o", layers, "merged"),
        cwd=base,
        env=environment(),
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=wait,
    )


@pytest.fixture
def merged(base: Path) -> Iterator[Path]:
    yield base / "merged"
    for kind in mount_types(base / "merged"):
        assert kind == "fuse.pyunionfs"
        pid = status_pid(base / "merged")
        umount(base / "merged")
        assert eventually(lambda pid=pid: gone(pid))  # type: ignore[misc]


@pytest.mark.parametrize("options", ["", "auto_unmount", "volatile,frob"])
def test_it_ends_when_it_serves_and_lets_go_of_the_pipes(base: Path, merged: Path, options: str) -> None:
    done = engine(base, options=options)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("\n") == ("frob" in options)
    assert (merged / "file").read_text() == "lower\n"
    (merged / "file").write_text("changed\n")
    assert (base / "upper" / "file").read_text() == "changed\n"


@one_transport
def test_a_refusal_is_one_line_and_changes_nothing(base: Path, merged: Path) -> None:
    done = engine(base, lowers="nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"{base}/nowhere does not exist" in done.stderr
    assert mount_types(merged) == []
    assert os.listdir(base / "work") == []


@one_transport
def test_a_failure_of_the_mount_itself_lets_go_of_the_pipes_too(base: Path, merged: Path) -> None:
    done = engine(base, options='context="no:such:label"')
    if done.returncode == 0:
        pytest.skip("this kernel has SELinux, and takes any label")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert mount_types(merged) == []


@one_transport
def test_in_the_foreground_it_ends_with_the_mount(base: Path, merged: Path) -> None:
    words = command("-f", "-o", "allow_other,lowerdir=lower,upperdir=upper,workdir=work", "merged")
    daemon = subprocess.Popen(words, cwd=base, env=environment(), stderr=subprocess.PIPE, text=True)
    assert daemon.stderr is not None
    assert "is mounted" in daemon.stderr.readline()
    assert mount_types(merged) == ["fuse.pyunionfs"]
    assert (merged / "file").exists()
    umount(merged)
    _, log = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, log


@one_transport
def test_a_mount_that_is_about_to_end_is_waited_for(base: Path, merged: Path) -> None:
    upper = os.open(base / "upper", os.O_RDONLY)
    fcntl.flock(upper, fcntl.LOCK_EX)
    holder = subprocess.Popen(["sleep", "1"], pass_fds=(upper,))
    os.close(upper)
    started = time.monotonic()
    done = engine(base)
    assert holder.wait(10) == 0
    assert done.returncode == 0, done.stderr
    assert time.monotonic() > started + 0.5


@one_transport
def test_unmounted_and_mounted_again_at_once(base: Path, merged: Path) -> None:
    for turn in range(5):
        done = engine(base)
        assert done.returncode == 0, done.stderr
        (merged / f"file{turn}").write_text("x")
        umount(merged, lazy=True)
    assert engine(base).returncode == 0
    assert len(os.listdir(merged)) == 6


@one_transport
@pytest.mark.parametrize("options", ["", "volatile"])
def test_a_work_directory_may_hold_anything(base: Path, merged: Path, options: str) -> None:
    work = base / "work"
    (work / "work" / "incompat" / "volatile").mkdir(parents=True)
    (work / "work" / "incompat" / "volatile" / "dirty").touch()
    (work / "work" / "#1").write_text("litter")
    (work / "mine").write_text("kept")
    done = engine(base, options=options)
    assert done.returncode == 0, done.stderr
    (merged / "file").write_text("changed")
    umount(merged)
    # No mark of a volatile mount stays, as none does there: what is mounted next need not know of it.
    assert eventually(lambda: os.listdir(work / "work") == [])
    assert (work / "mine").read_text() == "kept"


@one_transport
def test_mount_heeds_a_mark_of_a_volatile_mount_but_not_its_empty_place(base: Path, merged: Path) -> None:
    layers = [str(base / name) for name in ("lower", "upper", "work", "merged")]
    (base / "work" / "work" / "incompat" / "volatile").mkdir(parents=True)
    assert "volatile" in run("mount", *layers, status=1).stderr
    (base / "work" / "work" / "incompat" / "volatile").rmdir()
    run("mount", *layers)


def test_names_of_marks_are_neither_seen_nor_made(base: Path, merged: Path) -> None:
    """What image tools unpack: deletions and opaque directories as files, in lowers and in upper."""
    for path in ("lower/dir/old", "lower/gone", "middle/dir/new", "upper/sub/x", "lower/sub/y"):
        (base / path).parent.mkdir(exist_ok=True, parents=True)
        (base / path).write_text(path)
    (base / "middle" / "dir" / ".wh..wh..opq").touch()
    (base / "middle" / ".wh.gone").touch()
    (base / "upper" / "sub" / ".wh.y").touch()
    (base / "upper" / ".wh.file").touch()
    assert engine(base, lowers="middle:lower").returncode == 0
    assert sorted(os.listdir(merged)) == ["dir", "sub"]
    assert os.listdir(merged / "dir") == ["new"]
    assert os.listdir(merged / "sub") == ["x"]
    for name in (".wh.file", ".wh.new", ".wh..wh..opq", ".wh..wh.plnk"):
        assert not (merged / name).exists()
        with pytest.raises(OSError, match="Invalid argument"):
            (merged / name).write_text("x")
        with pytest.raises(OSError, match="Invalid argument"):
            (merged / "sub" / "x").rename(merged / name)
    (merged / "file").write_text("again")
    assert (merged / "file").read_text() == "again"


def test_a_directory_of_a_lower_is_not_renamed_above_the_limit(base: Path, merged: Path) -> None:
    (base / "lower" / "dir" / "sub").mkdir(parents=True)
    assert engine(base, options="rename_copy_files=1").returncode == 0
    with pytest.raises(OSError, match="Invalid cross-device link"):
        os.rename(merged / "dir", merged / "other")
    assert os.listdir(base / "upper") == []
    (merged / "mine").mkdir()
    os.rename(merged / "mine", merged / "other")


FOREIGN = ["user.fuseoverlayfs.opaque", "user.overlay.opaque", "trusted.overlay.opaque"]


@one_transport
@pytest.mark.parametrize("mark", FOREIGN)
@pytest.mark.parametrize("layer", ["upper", "middle"])
def test_what_others_call_opaque_is_opaque_and_stays_hidden(
    base: Path, merged: Path, mark: str, layer: str
) -> None:
    (base / "lower" / "dir").mkdir()
    (base / "lower" / "dir" / "below").touch()
    (base / "middle").mkdir()
    (base / layer / "dir").mkdir()
    (base / layer / "dir" / "above").touch()
    os.setxattr(base / layer / "dir", mark, b"y")
    os.setxattr(base / layer / "dir", "user.mine", b"1")
    assert engine(base, lowers="middle:lower").returncode == 0
    assert os.listdir(merged / "dir") == ["above"]
    assert os.listxattr(merged / "dir") == ["user.mine"]
    with pytest.raises(OSError, match="No data"):
        os.getxattr(merged / "dir", mark)


@one_transport
def test_marks_of_others_are_not_copied_up_nor_set(base: Path, merged: Path) -> None:
    names = ["user.fuseoverlayfs.origin", "user.overlay.origin", "user.overlay.impure"]
    for name in [*names, "user.mine"]:
        os.setxattr(base / "lower" / "file", name, b"v")
    assert engine(base).returncode == 0
    os.chmod(merged / "file", 0o600)
    assert os.listxattr(merged / "file") == ["user.mine"]
    stored = set(os.listxattr(base / "upper" / "file"))
    assert "user.mine" in stored
    assert not stored & set(names)
    for name in names:
        with pytest.raises(OSError, match="not permitted"):
            os.setxattr(merged / "file", name, b"w")
        with pytest.raises(OSError, match="No data"):
            os.removexattr(merged / "file", name)


@one_transport
def test_the_mount_table_shows_the_source(base: Path, merged: Path) -> None:
    words = command("a source", str(merged), "-o", f"lowerdir={base}/lower,nosuid")
    assert subprocess.run(words, env=environment(), timeout=30).returncode == 0
    (line,) = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {merged} " in line]
    source, _, kind, options, *_ = line.split()
    assert (source, kind) == (r"a\040source", "fuse.pyunionfs")
    assert {"ro", "nosuid", "nodev", "noatime"} <= set(options.split(","))


@one_transport
def test_a_mount_that_nobody_can_reach_does_not_stop_another(base: Path, merged: Path) -> None:
    """`buildah unshare sh -c 'buildah mount ...'` leaves one behind, in a namespace without processes."""
    layers = "lowerdir=lower,upperdir=upper,workdir=work"
    script = '"$@"; echo "from there" > merged/new; rm merged/file'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", *command("-o", layers, "merged")]
    subprocess.run(words, cwd=base, env=environment(), check=True, timeout=30)
    [other] = [each for each in statuses() if each["upper"] == str(base / "upper")]
    try:
        assert other["state"] == "detached"
        assert engine(base).returncode == 0
        assert sorted(os.listdir(merged)) == ["new"]
        (merged / "new").rename(merged / "renamed")
        (base / "work" / "work" / "#5").write_text("the other's")
    finally:
        os.kill(other["pid"], signal.SIGTERM)
    assert eventually(lambda: gone(other["pid"]))
    assert not (base / "work" / "work" / "#5").exists()
    (merged / "file").write_text("again")
    (merged / "renamed").unlink()
    assert os.listdir(merged) == ["file"]
    umount(merged)
    assert eventually(lambda: os.listdir(base / "work" / "work") == [])
    assert os.listdir(base / "upper") == ["file"]


@one_transport
def test_a_mount_that_can_be_reached_does_stop_another(base: Path, merged: Path) -> None:
    assert engine(base).returncode == 0
    done = engine(base)
    assert done.returncode == 1
    assert "in use by the mount on " in done.stderr


@one_transport
@pytest.mark.parametrize("mark", [".wh..wh..opq", *FOREIGN])
@pytest.mark.parametrize("layer", ["upper", "middle"])
def test_a_layer_may_hide_all_below_it(base: Path, merged: Path, mark: str, layer: str) -> None:
    (base / "middle").mkdir()
    (base / "middle" / "there").touch()
    (base / "lower" / "dir").mkdir()
    if mark.startswith(".wh."):
        (base / layer / mark).touch()
    else:
        os.setxattr(base / layer, mark, b"y")
    assert engine(base, lowers="middle:lower").returncode == 0
    shown = [] if layer == "upper" else ["there"]
    assert os.listdir(merged) == shown
    assert not (merged / "file").exists()
    (merged / "dir").mkdir()
    (merged / "file").write_text("new\n")
    assert sorted(os.listdir(merged)) == ["dir", "file", *shown]
    (merged / "file").unlink()
    (merged / "dir").rmdir()
    assert os.listdir(merged) == shown
    umount(merged)
    assert engine(base, lowers="middle:lower").returncode == 0
    assert os.listdir(merged) == shown
