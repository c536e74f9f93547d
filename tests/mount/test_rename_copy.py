"""Renaming a directory of a lower through a mount where no redirect may be written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.renames import populate, programs_rename
from tests.mount.rig import eventually, mount, program, run, statuses
from tests.support import transports
from tests.support.mounts import REPOSITORY, command, environment, needs_fuse, needs_root, umount
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse]

FORMS = ["userxattr", "whiteouts=aufs", "rename_copy_bytes=100000000,redirect_dir=off"]


def engine(base: Path, options: str = "") -> None:
    """Mount as container engines do."""
    layers = f"lowerdir=lower,upperdir=upper,workdir=work,transport={transports.chosen()}{options}"
    words = command("-o", layers, "merged")
    subprocess.run(words, cwd=base, env=environment(), check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("form", FORMS)
def test_directories_of_lowers_are_renamed(base: Path, form: str) -> None:
    merged = base / "merged"
    tree = base / "lower/tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "big").write_bytes(os.urandom(300_000))
    for at in range(300):
        (tree / f"sub/{at}").write_text(str(at))
    mount(base, "-o", form)
    try:
        held = os.open(merged / "tree/sub", os.O_RDONLY | os.O_DIRECTORY)
        reader = os.open(merged / "tree/sub/7", os.O_RDONLY)
        number = os.stat(merged / "tree/sub").st_ino
        os.rename(merged / "tree", merged / "moved")
        assert os.stat(merged / "moved/sub").st_ino == number
        assert sorted(os.listdir(held)) == sorted(map(str, range(300)))
        with (merged / "moved/sub/7").open("a") as file:
            file.write("more")
        assert os.pread(reader, 100, 0) == b"7more"
        os.close(held)
        os.close(reader)
        subprocess.run(["mv", "-T", "moved", "again"], cwd=merged, check=True)
        assert (merged / "again/big").read_bytes() == (tree / "big").read_bytes()
        assert "tree" not in os.listdir(merged)
    finally:
        umount(merged)
    mount(base, "-o", form)
    try:
        assert sorted(os.listdir(merged / "again/sub")) == sorted(map(str, range(300)))
        assert (merged / "again/sub/7").read_text() == "7more"
        assert not (merged / "tree").exists()
    finally:
        umount(merged)


@pytest.mark.parametrize("options", ["", ",xattr_permissions=2"])
def test_programs_rename_directories_in_the_form_of_container_engines(base: Path, options: str) -> None:
    populate(base / "lower")
    engine(base, options)
    try:
        programs_rename(base / "merged")
    finally:
        umount(base / "merged")
    assert not [path for path in (base / "upper").rglob("*") if "trusted.overlay.redirect" in _xattrs(path)]
    engine(base, options)
    try:
        assert (base / "merged/site/pkg/new").read_text() == "new"
    finally:
        umount(base / "merged")


def _xattrs(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


@one_transport
def test_what_objects_bear_comes_along(base: Path) -> None:
    tree = base / "lower/tree"
    (tree / "dir").mkdir(parents=True)
    file = tree / "dir/file"
    file.write_text("text")
    os.symlink("file", tree / "dir/link")
    os.mkfifo(tree / "dir/pipe")
    os.setxattr(file, "user.own", b"1")
    os.setxattr(tree / "dir", "user.own", b"2")
    if shutil.which("setfacl"):
        subprocess.run(["setfacl", "-m", "u:77:rw", file], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:77:rwx", tree / "dir"], check=True)
    os.chown(file, 1000, 2000)
    os.chown(tree / "dir/link", 5, 6, follow_symlinks=False)
    os.chmod(file, 0o4755)
    os.chown(tree / "dir", 1000, 1000)
    os.utime(file, ns=(10**18, 10**18 + 1))
    mount(base, "-o", "userxattr,uidmapping=0:0:1:1000:1000:100,xino=off")
    try:
        before = _borne(base / "merged/tree")
        os.rename(base / "merged/tree", base / "merged/moved")
        assert _borne(base / "merged/moved") == before
    finally:
        umount(base / "merged")
    mount(base, "-o", "userxattr,uidmapping=0:0:1:1000:1000:100,xino=off")
    try:
        assert _borne(base / "merged/moved") == before
    finally:
        umount(base / "merged")


def _borne(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in [root / "dir", *sorted((root / "dir").iterdir())]:
        st = path.lstat()
        values = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in _xattrs(path)]
        found[path.name] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, sorted(values))
    return found


@pytest.mark.parametrize("word", ["off", "nofollow", "follow"])
def test_redirect_dir_off_by_name_is_exdev(base: Path, word: str) -> None:
    (base / "lower/tree").mkdir()
    for begin in (
        lambda: mount(base, "-o", f"redirect_dir={word}"),
        lambda: engine(base, f",redirect_dir={word}"),
    ):
        begin()
        try:
            with pytest.raises(OSError) as caught:
                os.rename(base / "merged/tree", base / "merged/moved")
            assert caught.value.errno == errno.EXDEV
        finally:
            umount(base / "merged")


# --- what does not come about ----------------------------------------------------------------------

GATE = """
import errno, os, time
from unionfs.overlay.copy_up import FileCopyUp
def prepare(self, real=FileCopyUp.prepare):
    if self.size == {size} and not os.path.exists({gate!r}):
        if {fails}:
            raise OSError(errno.ENOSPC, "full")
        open({gate!r} + ".reached", "w").close()
        while not os.path.exists({gate!r}):
            time.sleep(0.01)
    real(self)
FileCopyUp.prepare = prepare
"""
SIZE = 3 << 20


@pytest.fixture(params=["fails", "waits"])
def stopped(base: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The copying of `last`, in a directory that is read after the others, fails or waits for the gate."""
    tree = base / "lower/tree"
    for name in ("a", "a/b", "a/b/last"):
        tree.joinpath(name).mkdir(parents=True)
    for at in range(20):
        (tree / f"a/{at}").write_text(str(at))
    (tree / "a/b/last/big").write_bytes(b"b" * SIZE)
    patch = GATE.format(size=SIZE, gate=str(base / "gate"), fails=request.param == "fails")
    words = program(patch, base, "-o", "userxattr")
    subprocess.run(words, cwd=REPOSITORY, check=True, timeout=30)
    try:
        yield request.param
    finally:
        (base / "gate").touch()
        run("umount", base / "merged")


def test_one_that_fails_or_whose_caller_is_killed_leaves_no_trace(base: Path, stopped: str) -> None:
    merged = base / "merged"
    subprocess.run(["ls", "-lR", merged], check=True, stdout=subprocess.DEVNULL)  # the kernel knows them
    if stopped == "fails":
        with pytest.raises(OSError) as caught:
            os.rename(merged / "tree", merged / "moved")
        assert caught.value.errno == errno.ENOSPC
    else:
        script = "import os, sys; os.rename(*sys.argv[1:])"
        caller = subprocess.Popen(["python3", "-c", script, merged / "tree", merged / "moved"])
        assert eventually((base / "gate.reached").exists)
        works = {work["work"]: work for work in statuses(merged)[0]["under_way"]}
        assert works["rename"]["path"] == "/tree"
        assert works["rename"]["total"] in (None, SIZE + 30)  # nothing where blocks are shared
        assert "renaming by copying /tree: " in run("status").stdout
        caller.send_signal(signal.SIGKILL)
        if transports.chosen() == "direct":
            assert caller.wait(15) == -signal.SIGKILL
        (base / "gate").touch()
        caller.wait(30)
    if stopped == "fails" or transports.chosen() == "direct":
        assert eventually(lambda: os.listdir(base / "upper") == [])
        assert eventually(lambda: statuses(merged)[0]["under_way"] == [])
        (base / "gate").touch()
        os.rename(merged / "tree", merged / "moved")
    assert (merged / "moved/a/b/last/big").read_bytes() == b"b" * SIZE
    assert (merged / "moved/a/7").read_text() == "7"
    assert os.listdir(base / "work/work") == [] or stopped == "waits"
