"""How a union ends: whatever happens to the program, it is gone, with all that was temporary."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

import unionfs
from tests.api.rig import contents, program, run
from tests.mount.rig import eventually
from tests.support.mounts import mount_types, needs_fuse, needs_root, scratch
from tests.support.transports import one_transport
from unionfs.daemon.tempdir import TempDir

pytestmark = [needs_root, needs_fuse, one_transport]

FS_IOC_SETFLAGS = 0x40086602
IMMUTABLE = 0x10


def test_an_exception_goes_through(tree: Path, place: Path) -> None:
    with pytest.raises(ZeroDivisionError) as raised, unionfs.mount([tree]) as merged:
        _ = 1 // 0
    assert mount_types(merged) == []
    assert not hasattr(raised.value, "__notes__")


def test_an_exception_comes_before_a_busy_tree(tree: Path, place: Path) -> None:
    with contextlib.ExitStack() as files:
        with pytest.raises(ZeroDivisionError) as raised, unionfs.mount([tree]) as merged:
            files.enter_context((merged / "data").open("rb"))
            _ = 1 // 0
        (note,) = raised.value.__notes__
        assert f"{merged} is busy: this process has {merged}/data open" in note
        assert mount_types(merged) == []
        assert os.listdir(place) == []


def test_a_busy_tree_is_detached_and_told_of(tree: Path, place: Path) -> None:
    before = contents(tree)
    with pytest.raises(unionfs.MountError) as raised, unionfs.mount([tree]) as merged:
        file = (merged / "data").open("rb")
    assert str(raised.value) == (
        f"{merged} is busy: this process has {merged}/data open (descriptor {file.fileno()}); close it before"
        " the block ends (the union was detached)"
    )
    assert mount_types(merged) == []
    assert os.listdir(place) == []
    assert file.read() == b"x" * 1000, "a file that is open can be read on"
    file.close()
    assert contents(tree) == before


def test_umount_leaves_a_busy_tree(tree: Path, place: Path) -> None:
    union = unionfs.mount([tree])
    before = os.getcwd()
    os.chdir(union.path / "etc")
    try:
        says = f"this process has its working directory in {union.path}; leave it, or umount"
        with pytest.raises(unionfs.MountError, match=re.escape(f"{says}(lazy=True)")):
            union.umount()
        with (
            (union.path / "data").open("rb"),
            pytest.raises(unionfs.MountError, match="leave and close them, or"),
        ):
            unionfs.umount(union.path)
        assert mount_types(union.path) == ["fuse.pyunionfs"]
        assert Path("motd").read_text() == "prepared\n"
    finally:
        os.chdir(before)
    union.umount()


def test_umount_lazily(tree: Path, place: Path) -> None:
    union = unionfs.mount([tree])
    with (union.path / "data").open("rb") as file:
        union.umount(lazy=True)
        assert mount_types(union.path) == []
        assert file.read(3) == b"xxx"


def test_another_process_is_named(tree: Path, place: Path) -> None:
    union = unionfs.mount([tree])
    with subprocess.Popen(["sleep", "60"], cwd=union.path) as sleeper:
        with pytest.raises(
            unionfs.MountError, match=rf"is busy: in use by sleep \(pid {sleeper.pid}\); end that"
        ):
            union.umount()
        others = rf"in use by sleep \(pid {sleeper.pid}\)"
        says = rf"this process has .*/data open .*, and it is {others}; end all that, or"
        with (union.path / "data").open("rb"), pytest.raises(unionfs.MountError, match=says):
            union.umount()
        sleeper.kill()
    union.umount()


def test_garbage_holds_nothing(tree: Path, place: Path) -> None:
    gc.disable()
    try:
        with unionfs.mount([tree]) as merged:
            cycle: list[object] = [(merged / "data").open("rb")]
            cycle.append(cycle)
            del cycle
    finally:
        gc.enable()


def test_somebody_else_unmounts(tree: Path, place: Path) -> None:
    with unionfs.mount([tree]) as merged:
        subprocess.run(["umount", merged], check=True)


def test_the_daemon_is_killed(tree: Path, place: Path) -> None:
    with unionfs.mount([tree]) as merged:
        pid = next(each.pid for each in unionfs.mounts() if each.path == merged)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            os.listdir(merged)
    assert mount_types(merged) == []


def test_covered_by_another_mount(tree: Path, place: Path) -> None:
    union = unionfs.mount([tree])
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", union.path], check=True)
    try:
        with pytest.raises(unionfs.MountError, match="is covered by a tmpfs mount"):
            union.umount()
    finally:
        subprocess.run(["umount", union.path], check=True)
    union.umount()


def test_a_mount_inside_is_detached_and_never_removed(tree: Path, place: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("kept")
    with pytest.raises(unionfs.MountError, match="etc is mounted in it"), unionfs.mount([tree]) as merged:
        subprocess.run(["mount", "--bind", precious, merged / "etc"], check=True)
    assert mount_types(merged) == []
    union = unionfs.mount([tree])
    assert union.upper is not None
    (union.upper / "sub").mkdir()
    subprocess.run(["mount", "--bind", precious, union.upper / "sub"], check=True)
    try:
        with pytest.raises(unionfs.MountError, match="upper/sub is mounted in it: unmount that"):
            union.umount()
        assert (precious / "data").read_text() == "kept"
    finally:
        subprocess.run(["umount", union.upper / "sub"], check=True)
        subprocess.run(["rm", "-r", union.upper.parent], check=True)


def test_everything_odd_is_removed(tree: Path, place: Path) -> None:
    with unionfs.mount([tree]) as merged:
        for name in ("etc/motd", "data"):
            (merged / name).unlink()
        (merged / "closed/inner").mkdir(parents=True)
        (merged / "closed").chmod(0)
        (merged / os.fsdecode(b"\xff\n")).symlink_to("nowhere")
        os.mkfifo(merged / "fifo")
        os.mknod(merged / "device", 0o600 | 0o020000, os.makedev(1, 3))
        # Some filesystems have no flags.
        with (merged / "fixed").open("w") as file, contextlib.suppress(OSError):
            fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("l", IMMUTABLE))
        deep = merged
        for _ in range(200):
            deep /= "d" * 30
        subprocess.run(["mkdir", "-p", deep.relative_to(merged)], cwd=merged, check=True)


def test_a_forked_process_ends_nothing(tree: Path, place: Path) -> None:
    with unionfs.mount([tree]) as merged:
        pid = os.fork()
        if pid == 0:
            # As a test runner that forks: the child leaves by an exception, through every `with`.
            os._exit(0 if _leaves_alone(merged) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert mount_types(merged) == ["fuse.pyunionfs"]


def _leaves_alone(merged: Path) -> bool:
    for union in [each for each in gc.get_objects() if isinstance(each, unionfs.Mount)]:
        if union.path == merged:
            union.__exit__(None, None, None)
            try:
                union.umount()
            except unionfs.MountError as error:
                return "from which this one was forked" in str(error) and mount_types(merged) == [
                    "fuse.pyunionfs"
                ]
    return False


ENDS = """
import os, signal, sys, unionfs
union = unionfs.mount(lowers=[sys.argv[1]])
(union.path / "data").unlink()
print(union.path, flush=True)
"""


@pytest.mark.parametrize(
    "end, status",
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("open(union.path / 'etc/motd'); raise KeyError", 1),
        ("held = open(union.path / 'etc/motd')", 0),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_the_end_of_the_program(end: str, status: int, tree: Path, place: Path) -> None:
    said = run(ENDS + end, tree, status=status)
    merged = Path(said.splitlines()[0])
    assert ("open (descriptor" in said) == ("held" in end)
    assert eventually(lambda: mount_types(merged) == [])
    assert eventually(lambda: not merged.parent.exists())


def test_killed_while_files_are_open(tree: Path, place: Path) -> None:
    """Somebody else may use them on for a moment, and then everything goes all the same."""
    with program(ENDS + "input()", tree) as process:
        assert process.stdout is not None
        merged = Path(process.stdout.readline().strip())
        with (merged / "etc/motd").open() as file:
            process.kill()
            assert eventually(lambda: mount_types(merged) == [])
            assert file.read() == "prepared\n"
        assert eventually(lambda: not merged.parent.exists())


BESIDE = """
import os, signal, sys, unionfs
union = unionfs.mount([sys.argv[1]], sys.argv[2] + "/merged", upper=sys.argv[2] + "/upper")
(union.path / "data").unlink()
print(os.listdir(sys.argv[2]))
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_work_beside_upper_goes_too(tree: Path, tmp_path: Path, place: Path) -> None:
    with scratch(tmp_path) as where:
        for name in ("upper", "merged"):
            (where / name).mkdir()
        assert ".pyunionfs-work-" in run(BESIDE, tree, where, status=-signal.SIGKILL)
        assert eventually(lambda: sorted(os.listdir(where)) == ["merged", "upper"])
        assert (where / "upper/data").is_char_device()


def test_what_is_mounted_in_a_temporary_directory_stays_wherever_that_went(
    tree: Path, place: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    made = TempDir.make(str(place))
    inside = Path(made.add("upper")) / "inside"
    inside.mkdir()
    subprocess.run(["mount", "--bind", tree, inside], check=True)
    # A mountpoint may not be moved, but what is above it may.
    os.rename(made.path, elsewhere)
    try:
        with pytest.raises(unionfs.MountError, match=f"stays, because {elsewhere}/upper/inside is mounted"):
            made.remove()
        assert (tree / "data").stat().st_size == 1000
    finally:
        subprocess.run(["umount", elsewhere / "upper/inside"], check=True)
    made.remove()
    assert os.listdir(elsewhere) == []


KEPT = """
import sys, unionfs
where = sys.argv[2]
unionfs.mount(
    [sys.argv[1]], where + "/merged", upper=where + "/upper", work=where + "/work", keep=True
)
"""


def test_kept_on_purpose(tree: Path, tmp_path: Path, place: Path) -> None:
    with scratch(tmp_path) as where:
        for name in ("upper", "work", "merged"):
            (where / name).mkdir()
        run(KEPT, tree, where)
        time.sleep(0.2)
        assert (where / "merged/data").stat().st_size == 1000
        unionfs.umount(where / "merged")


INTERRUPTED = """
import os, signal, sys, threading, unionfs
import unionfs.api.launch as launch
real = launch.subprocess.Popen.communicate
def communicate(self, *arguments):
    threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    return real(self, *arguments)
launch.subprocess.Popen.communicate = communicate
try:
    unionfs.mount([sys.argv[1]]).umount()
    print("mounted")
except KeyboardInterrupt:
    print("interrupted")
    print(open("/proc/self/mountinfo").read().count(os.environ["TMPDIR"] + "/pyunionfs-"))
    print(os.listdir(os.environ["TMPDIR"]))
"""


@pytest.mark.parametrize("after", [0.0, 0.04, 0.1])
def test_interrupted_while_mounting(after: float, tree: Path, place: Path) -> None:
    """However far it has come."""
    said = run(INTERRUPTED, tree, str(after))
    assert said.splitlines()[-3:] == ["interrupted", "0", "[]"] or "mounted" in said


def test_sigchld_is_somebody_elses(tree: Path, place: Path) -> None:
    """Programs that ignore SIGCHLD never see an exit status; the daemon's words count."""
    text = """
import signal, sys, unionfs
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with unionfs.mount([sys.argv[1]]) as merged:
    print(merged.is_dir())
try:
    unionfs.mount([sys.argv[1] + "/gone"])
except unionfs.MountError as error:
    print(error)
"""
    lines = run(text, tree).splitlines()
    assert lines[0] == "True"
    assert lines[1].startswith(f"lower {tree}/gone does not exist")


def test_the_daemon_holds_nothing_of_the_program(tree: Path, place: Path) -> None:
    """Neither its files nor its terminal, and signals for the program's group do not reach it."""
    with (tree / "data").open() as mine:
        os.set_inheritable(mine.fileno(), True)
        with unionfs.mount([tree]) as merged:
            pid = next(each.pid for each in unionfs.mounts() if each.path == merged)
            assert pid is not None
            targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert str(tree / "data") not in targets
            assert os.getsid(pid) != os.getsid(0)
            assert os.getpgid(pid) != os.getpgid(0)
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
