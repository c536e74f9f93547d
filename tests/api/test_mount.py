"""`unionfs.mount`: what it shows, makes, takes and refuses."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unionfs
from tests.api.rig import contents, mounted_at, run
from tests.support.mounts import (
    make_directories,
    mount_types,
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    scratch,
)
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse]


@pytest.fixture
def over(transport: str) -> dict[str, Any]:
    """The keyword that says over which transport."""
    return {"transport": transport}


def test_everything_left_out_is_temporary(tree: Path, place: Path, over: dict[str, Any]) -> None:
    before = contents(tree)
    with unionfs.mount(lowers=[tree], **over) as merged:
        assert isinstance(merged, Path)
        assert merged.is_relative_to(place)
        assert contents(merged) == before
        (merged / "etc/motd").write_text("changed\n")
        (merged / "data").unlink()
        (merged / "new").mkdir()
        assert sorted(os.listdir(merged)) == ["etc", "new"]
        status = mounted_at(merged)
        assert (status.path, status.state, status.lowers) == (merged, "serving", (tree,))
        assert status.upper == merged.parent / "upper"
        assert status.transport == over["transport"]
        assert {"volatile"} <= set(status.options)
        assert status.started is not None
        assert status.pid is not None
    assert contents(tree) == before
    assert os.listdir(place) == []
    assert not any(each.path == merged for each in unionfs.mounts())


def test_given_directories_are_kept(tree: Path, tmp_path: Path, place: Path, over: dict[str, Any]) -> None:
    with scratch(tmp_path) as where:
        for name in ("upper", "work", "merged"):
            (where / name).mkdir()
        layers: dict[str, Any] = {"upper": where / "upper", "work": os.fsencode(where / "work")}
        union = unionfs.mount([str(tree)], where / "merged", index=True, **layers, **over)
        assert (union.path, union.upper, union.work) == (where / "merged", where / "upper", where / "work")
        assert union.lowers == (tree,)
        (union.path / "new").write_text("kept\n")
        union.umount()
        union.umount()
        assert repr(union).endswith("unmounted>")
        assert (where / "upper/new").read_text() == "kept\n"
        assert (where / "work/index").is_dir()
        with unionfs.mount([tree], where / "merged", upper=where / "upper", **over) as merged:
            assert (merged / "new").read_text() == "kept\n"
            (beside,) = where.glob(".pyunionfs-work-*")
            assert os.listdir(beside) == ["work"]
        assert sorted(os.listdir(where)) == ["merged", "upper", "work"]


def test_read_only(tree: Path, place: Path, over: dict[str, Any]) -> None:
    with unionfs.mount([tree], ro=True, **over) as merged:
        assert os.listdir(merged.parent) == ["merged"]
        with pytest.raises(OSError, match="Read-only"):
            (merged / "new").touch()


def test_options_arrive(tree: Path, place: Path, over: dict[str, Any]) -> None:
    with unionfs.mount(
        [tree], noexec=True, fsname="a b,c", timeout=2, metacopy=True, volatile=False, **over
    ) as merged:
        status = mounted_at(merged)
        assert {"noexec", "metacopy=on", "timeout=2", "fsname=a b\\,c"} <= set(status.options)
        assert "volatile" not in status.options
        (merged / "prog").write_text("#!/bin/sh\n")
        (merged / "prog").chmod(0o755)
        with pytest.raises(PermissionError):
            subprocess.run([merged / "prog"], check=True)


def test_the_top_of_the_tree_looks_like_the_lower(tree: Path, place: Path, over: dict[str, Any]) -> None:
    os.chown(tree, 1234, 5678)
    tree.chmod(0o2750)
    os.setxattr(tree, "user.note", b"kept")
    os.setxattr(tree, "trusted.overlay.origin", b"not for others")
    os.utime(tree, ns=(1, 1_000_000_001))
    with unionfs.mount([tree], **over) as merged:
        info = merged.stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 5678, 0o2750)
        assert info.st_mtime_ns == 1_000_000_001
        assert os.listxattr(merged) == ["user.note"]
        assert "trusted.overlay.origin" not in os.listxattr(merged.parent / "upper")


NAMES = [
    "comma,name",
    "co:lon",
    "back\\slash",
    'quo"te',
    "\udcff\udcfe",
    "white space",
    "line\nend",
    "=",
    "é",
]


@pytest.mark.parametrize("name", NAMES)
@one_transport
def test_names_of_any_kind(name: str, tree: Path, tmp_path: Path, place: Path) -> None:
    with scratch(tmp_path) as where:
        top = where / name
        make_directories(top)
        (top / "lower/mine").write_text("found\n")
        with unionfs.mount(
            [os.fsencode(top / "lower"), tree],
            top / "merged",
            upper=top / "upper",
            work=top / "work",
            log_file=top / "log",
        ) as merged:
            assert merged == top / "merged"
            assert (merged / "mine").read_text() == "found\n"
            (merged / "etc/motd").unlink()
            status = mounted_at(merged)
            assert status.path == merged
            assert status.lowers == (top / "lower", tree)
            assert status.upper == top / "upper"
        assert (top / "upper/etc/motd").is_char_device()
        assert os.listdir(top / "merged") == []


@one_transport
def test_relative_paths(tree: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with unionfs.mount(["here/../tree"], "here") as merged:
        assert merged == tmp_path / "here"
        assert (merged / "etc/motd").read_text() == "prepared\n"


@one_transport
def test_five_hundred_lowers_with_long_names(tmp_path: Path, place: Path) -> None:
    lowers = []
    for number in range(500):
        lower = tmp_path / f"{number:04}-{'n' * 240}"
        lower.mkdir()
        (lower / f"of-{number}").touch()
        (lower / "of-all").write_text(str(number))
        lowers.append(lower)
    assert sum(len(str(lower)) for lower in lowers) > 1 << 17, "one argument would hold them"
    with unionfs.mount(lowers) as merged:
        assert len(os.listdir(merged)) == 501
        assert (merged / "of-all").read_text() == "0"


@one_transport
def test_data_only_lowers(tree: Path, tmp_path: Path, place: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/hidden").write_text("only by metacopy")
    with unionfs.mount([tree], data_lowers=[tmp_path / "data"]) as merged:
        assert sorted(os.listdir(merged)) == ["data", "etc"]


@pytest.mark.parametrize(
    "keywords, complaint",
    [
        ({"lowers": []}, "lowers is empty"),
        ({"work": "/w"}, "work requires upper"),
        ({"indx": True}, "did you mean index"),
        ({"timeout": "soon"}, "invalid value .soon. of mount option timeout: give a number of seconds"),
        ({"upper": "/u", "index": True}, "index=True with upper requires work"),
        ({"upper": "/u", "volatile": True}, "volatile=True with upper requires work"),
        ({"keep": True}, "keep=True requires mountpoint and upper and work,"),
        ({"keep": True, "ro": True}, "keep=True requires mountpoint,"),
        ({"keep": True, "mountpoint": "/m", "upper": "/u"}, "keep=True requires work,"),
        ({"mountpoint": 3}, "mountpoint is an int"),
    ],
)
@one_transport
def test_wrong_calls(keywords: dict[str, Any], complaint: str, tree: Path, place: Path) -> None:
    with pytest.raises(unionfs.OptionError, match=complaint):
        unionfs.mount(**{"lowers": [tree], **keywords})


@one_transport
def test_refusals_are_the_daemons_own_words(tree: Path, place: Path) -> None:
    gone = tree / "gone"
    with pytest.raises(unionfs.MountError) as refused:
        unionfs.mount([gone])
    assert str(refused.value) == f"lower {gone} does not exist: create it, or correct the path"
    with pytest.raises(unionfs.MountError, match="gone"):
        unionfs.mount([tree], gone)
    with pytest.raises(
        unionfs.MountError, match="cannot create a work directory next to upper /proc, the root of"
    ):
        unionfs.mount([tree], upper="/proc")
    with pytest.raises(unionfs.MountError, match="name another place by tmpdir="):
        unionfs.mount([tree], tmpdir=gone)


@needs_overlayfs
def test_a_temporary_upper_in_a_container(
    tree: Path, tmp_path: Path, place: Path, over: dict[str, Any]
) -> None:
    """A container's own root directory is an overlayfs, which can hold no whiteouts."""
    with scratch(tmp_path) as where:
        make_directories(where)
        with overlayfs([where / "lower"], where / "upper", where / "work", where / "merged"):
            with unionfs.mount([tree], tmpdir=where / "merged", **over) as merged:
                assert "whiteouts=aufs" in mounted_at(merged).options
                (merged / "data").unlink()
                shutil.move(merged / "etc", merged / "moved")
                (merged / "moved/motd").unlink()
                (merged / "data").mkdir()
                assert sorted(path.name for path in merged.rglob("*")) == ["data", "moved"]
            with pytest.raises(
                unionfs.MountError, match="this upper is a temporary directory: choose another place"
            ):
                unionfs.mount([tree], tmpdir=where / "merged", metacopy=True)
            assert os.listdir(where / "merged") == []
    assert (tree / "etc/motd").read_text() == "prepared\n"


@one_transport
def test_a_place_that_cannot_hold_marks(tree: Path, place: Path) -> None:
    with (
        unionfs.mount([tree]) as merged,
        pytest.raises(
            unionfs.MountError, match="this upper is a temporary directory: choose another place by tmpdir="
        ),
    ):
        unionfs.mount([tree], tmpdir=merged)
    with unionfs.mount([tree]) as merged:
        assert not list(merged.glob("pyunionfs-*"))


@one_transport
def test_a_union_as_a_lower(tree: Path, place: Path) -> None:
    with unionfs.mount([tree]) as first:
        (first / "first").touch()
        with unionfs.mount([first]) as second:
            assert sorted(os.listdir(second)) == ["data", "etc", "first"]


@one_transport
def test_many_at_the_same_time(tree: Path, place: Path) -> None:
    """The kernel gives a number again at once: a daemon that ends must not take the next one's mount away."""

    def use(number: int) -> str:
        with unionfs.mount([tree]) as merged:
            (merged / "etc/motd").write_text(str(number))
            return (merged / "etc/motd").read_text()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(16))) == list(map(str, range(16)))


LOADED = """
import sys
before = set(sys.modules)
import unionfs
early = set(sys.modules) - before
assert not early & {"ctypes", "dataclasses", "json", "logging", "os.path", "subprocess", "tempfile"}, early
assert {name for name in early if name.startswith("unionfs")} == {"unionfs", "unionfs.errors"}, early
with unionfs.mount(lowers=[sys.argv[1]]) as merged:
    assert merged.is_dir()
unionfs.mounts()
heavy = {"trio", "pyfuse3", "rich", "asyncio", "multiprocessing", "unionfs.daemon.lifecycle"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


@one_transport
def test_what_is_loaded(tree: Path, place: Path) -> None:
    run(LOADED, tree)


SHADOWED = """
import json, selectors, subprocess, unionfs.api.union
import os, sys
os.chdir(sys.argv[3])
sys.path.insert(0, "")
with unionfs.mount(lowers=[sys.argv[1]], transport=sys.argv[2]) as merged:
    print(merged.is_dir())
"""


def test_what_is_no_business_of_the_daemon(
    tree: Path, place: Path, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules in the current directory, and what the environment tells Python."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("selectors", "json", "trio", "unionfs"):
        (project / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    starts = tmp_path / "starts"
    starts.mkdir()
    (starts / "sitecustomize.py").write_text("import os; os.write(1, b'customised\\n')\n")
    monkeypatch.setenv("PYTHONPATH", str(starts))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert run(SHADOWED, tree, transport, project) == "customised\nTrue\n"


@one_transport
def test_without_an_interpreter(tree: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(unionfs.MountError, match="terminated before the mount was ready, without a message"):
        unionfs.mount([tree])
    monkeypatch.setattr(sys, "executable", str(tree / "gone"))
    with pytest.raises(unionfs.MountError, match=r"cannot start the daemon with .*/gone"):
        unionfs.mount([tree])
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(unionfs.MountError, match="no Python interpreter"):
        unionfs.mount([tree])


@one_transport
def test_umount_of_any_union(tree: Path, place: Path) -> None:
    union = unionfs.mount([tree])
    unionfs.umount(os.fsencode(union.path))
    assert mount_types(union.path) == []
    with pytest.raises(unionfs.MountError, match="nothing is mounted on"):
        unionfs.umount(union.path)
    with pytest.raises(unionfs.MountError, match="not pyunionfs's"):
        unionfs.umount("/proc")
    union.umount()
    with pytest.raises(unionfs.MountError, match="has been unmounted: mount it again"), union:
        pass
