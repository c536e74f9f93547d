"""`mount` with an image: its layers are the lowest lowers, and are in use as long as the mount is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import unionfs
from tests.mount.rig import eventually, foreground, run, statuses
from tests.programs.test_user import life
from tests.support.images import Tree, plant
from tests.support.mounts import (
    REPOSITORY,
    environment,
    needs_fuse,
    needs_root,
    status_pid,
    umount,
)
from tests.support.users import as_user, open_home, ordinary_user
from unionfs.image.lowers import is_mounted
from unionfs.image.store import Store

pytestmark = [needs_root, needs_fuse]

LAYERS: list[Tree] = [
    {"etc/a": b"low", "etc/b": b"low", "gone": b"x"},
    {"etc/b": b"high", "gone-": None},
    {"etc/c": b"top"},
]


@pytest.fixture
def store(base: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(base / "store"))
    made = Store()
    plant(made, "debian:12", LAYERS)
    return made


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def mounted(store: Store) -> set[bool]:
    return {is_mounted(tree / "diff") for tree in store.trees.iterdir()}


IMAGE = {"etc/a": b"low", "etc/b": b"high", "etc/c": b"top"}


def test_an_image_is_read_only_alone_and_writable_below_an_upper(base: Path, store: Store) -> None:
    run("mount", "--image", "debian:12", base / "merged")
    assert contents(base / "merged") == IMAGE
    with pytest.raises(OSError, match="Read-only"):
        (base / "merged/new").touch()
    (status,) = statuses(base / "merged")
    assert "image=debian:12" in status["options"]
    assert len(status["lowers"]) == 3
    assert subprocess.check_output(["findmnt", "-no", "SOURCE", base / "merged"], text=True) == "debian:12\n"
    run("umount", base / "merged")

    run("mount", "-o", "image=debian:12", base / "lower", base / "upper", base / "work", base / "merged")
    assert contents(base / "merged") == IMAGE | {"file": b"lower\n"}
    (base / "merged/etc/a").write_text("mine")
    assert mounted(store) == {True}
    run("umount", base / "merged")
    assert contents(base / "upper") == {"etc/a": b"mine"}
    assert mounted(store) == {False}
    run("check", "-o", "image=debian:12", base / "lower", base / "upper", base / "work")

    options = f"image=debian,lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    plant(store, "debian", LAYERS[:1])
    run("mount", "-o", options, base / "merged")
    assert contents(base / "merged") == {"etc/a": b"mine", "etc/b": b"low", "gone": b"x", "file": b"lower\n"}
    assert mounted(store) == {True, False}
    run("umount", base / "merged")


def test_a_killed_daemon_and_one_in_the_foreground(base: Path, store: Store) -> None:
    daemon = foreground(base, "--image", "debian:12")
    assert mounted(store) == {True}
    run("umount", base / "merged")
    daemon.wait(timeout=30)
    assert mounted(store) == {False}
    run("mount", "--image", "debian:12", base / "merged")
    pid = status_pid(base / "merged")
    with store.pruning():  # the mount needs no lock of the store any more
        assert mounted(store) == {True}
    os.kill(pid, signal.SIGSTOP)
    assert mounted(store) == {True}
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: mounted(store) == {False})  # when the last of its threads has ended
    umount(base / "merged", lazy=True)


def test_many_layers_and_some_alike(base: Path, store: Store) -> None:
    """127 is what Docker makes; some of these are the same tree at several places."""
    layers: list[Tree] = [
        {f"d/{number % 140}": b"", "same": str(number % 140).encode()} for number in range(160)
    ]
    plant(store, "many", layers)
    run("mount", "--image", "many", base / "upper", base / "work", base / "merged")
    assert sorted(os.listdir(base / "merged/d"), key=int) == [str(number) for number in range(140)]
    assert (base / "merged/same").read_text() == "19"
    (base / "merged/d/77").unlink()
    assert len(os.listdir(base / "merged/d")) == 139
    run("umount", base / "merged")


def test_what_is_refused(base: Path, store: Store) -> None:
    plant(store, "empty", [])
    for words, says in (
        (["--image", "nothing", base / "merged"], "there is no image nothing"),
        (["--image", "empty", base / "merged"], "has no layers"),
        (["--store", base / "other", "--image", "debian:12", base / "merged"], "there is no image debian:12"),
        (["--store", base, "--image", "debian:12", base / "merged"], "neither empty nor a store"),
        (["--store", base / "store", base / "lower", base / "merged"], "mount option store is of no use"),
        (["--image", "debian:12"], "0 directories were given"),
    ):
        assert says in run("mount", *words, status=None).stderr
    (store.trees / os.listdir(store.trees)[0]).rename(base / "taken")
    assert "is not unpacked" in run("mount", "--image", "debian:12", base / "merged", status=1).stderr


def test_the_form_of_mount8(base: Path, store: Store) -> None:
    options = f"image=debian:12,store={store.root},upperdir={base}/upper,workdir={base}/work"
    program = [sys.executable, "-c", "from unionfs.cli.mount_helper import command; command()"]
    words = [*program, "source", str(base / "merged")]
    subprocess.run([*words, "-o", options], check=True, cwd=REPOSITORY, env=environment())
    assert contents(base / "merged") == IMAGE
    subprocess.run([*words, "-o", options + ",remount,ro"], check=True, cwd=REPOSITORY, env=environment())
    with pytest.raises(OSError, match="Read-only"):
        (base / "merged/new").touch()
    run("umount", base / "merged")


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_owners_in_the_layers_of_a_user_with_a_single_id(transport: str) -> None:
    """What a layer's attributes say is shown without an option."""
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        life(as_user(user, "tests.mount.user_image", home))


def test_from_python(base: Path, store: Store) -> None:
    os.chmod(store.trees / os.listdir(store.trees)[0] / "diff", 0o750)
    with unionfs.mount(image="debian:12", tmpdir=base) as merged:
        assert contents(merged) == IMAGE
        (merged / "etc/a").unlink()
        (found,) = (each for each in unionfs.mounts() if each.path == merged)
        top = Path(found.lowers[0])
        assert merged.stat().st_mode == top.stat().st_mode
    with unionfs.mount([base / "lower"], image="debian:12", store=store.root, ro=True) as merged:
        assert contents(merged) == IMAGE | {"file": b"lower\n"}
    assert mounted(store) == {False}
    with pytest.raises(unionfs.MountError, match="no image nothing"):
        unionfs.mount(image="nothing", tmpdir=base)
    with pytest.raises(unionfs.OptionError, match="store requires image"):
        unionfs.mount([base / "lower"], store=store.root)


LOADED = """
import json, sys
import unionfs.daemon.readiness
from unionfs.cli import main
main(sys.argv[2:])
json.dump(sorted(sys.modules), open(sys.argv[1], "w"))
"""


def test_a_mount_without_an_image_loads_nothing_of_images(base: Path, store: Store) -> None:
    def loaded(*words: str | Path) -> set[str]:
        command = [sys.executable, "-c", LOADED, base / "modules", "mount", *words, base / "merged"]
        subprocess.run(command, check=True, cwd=REPOSITORY, env=environment())
        run("umount", base / "merged")
        return {name for name in json.loads((base / "modules").read_text()) if is_of_images(name)}

    def is_of_images(name: str) -> bool:
        parts = name.split(".")
        return parts[0] in ("msgspec", "urllib3", "isal", "zstandard") or (
            parts[0] == "unionfs" and parts[1:2] in (["image"], ["registry"], ["container"])
        )

    assert loaded(base / "lower") == set()
    assert "unionfs.image.lowers" in loaded("--image", "debian:12")
