"""`whiteouts=aufs` on a real mount: what fuse-overlayfs reads in the upper that it leaves, and crashes.

The core's tests (tests/overlay/test_aufs.py) say what each operation leaves.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.rig import mount, run, statuses
from tests.overlay.rig import seen
from tests.overlay.trees import build, disk
from tests.support.mounts import (
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    pyunionfs,
    scratch,
    umount,
)

pytestmark = [needs_root, needs_fuse]

AUFS = ["-o", "whiteouts=aufs"]


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        build(
            directory / "lower",
            {
                "a": "a",
                "b": "b",
                "c": "c",
                "d": {"x": "x", "y": "y", "deep": {"z": "z"}},
                "e": {"x": "x"},
                "empty": {},
            },
        )
        for name in ("upper", "work", "merged"):
            (directory / name).mkdir()
        yield directory


@contextmanager
def fuse_overlayfs(base: Path, **env: str) -> Iterator[Path]:
    """The same directories mounted by fuse-overlayfs."""
    if shutil.which("fuse-overlayfs") is None:
        pytest.skip("needs fuse-overlayfs")
    merged = base / "merged"
    layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    subprocess.run(
        ["fuse-overlayfs", "-o", layers, str(merged)], check=True, env={**os.environ, **env}, timeout=30
    )
    try:
        yield merged
    finally:
        umount(merged)


def scribble(merged: Path, seed: int) -> None:
    """Some forty changes of names, whatever becomes of them."""
    rng = random.Random(seed)
    names = ["a", "b", "c", "d", "e", "empty", "n", "m"]

    def path() -> Path:
        return merged.joinpath(*rng.sample(names, rng.choice([1, 1, 2])))

    for number in range(40):
        one, other = path(), path()
        act = rng.choice(["rm", "rm", "rmdir", "mkdir", "write", "mv", "ln", "rm -r"])
        try:
            if act == "rm":
                one.unlink()
            elif act == "rmdir":
                one.rmdir()
            elif act == "mkdir":
                one.mkdir()
            elif act == "write":
                one.write_text(str(number))
            elif act == "mv":
                one.rename(other)
            elif act == "ln":
                os.link(one, other)
            elif one.is_dir():
                shutil.rmtree(one)
        except OSError:
            continue


def names(tree: dict[str, str]) -> dict[str, str]:
    """What each object is, with its content, without times and links."""
    return {
        name: f"{line.split(' ')[0]} {line.split(' ')[-1]}"
        for name, line in tree.items()
        if "dir" not in line
    } | {name: "dir" for name, line in tree.items() if line.startswith("dir")}


@pytest.mark.parametrize("seed", range(2))
def test_fuse_overlayfs_shows_the_same_tree(base: Path, seed: int) -> None:
    mount(base, *AUFS)
    try:
        scribble(base / "merged", seed)
        tree = seen(base / "merged")
    finally:
        run("umount", base / "merged")
    assert "whiteout" not in disk(base / "upper").values()
    with fuse_overlayfs(base) as merged:
        assert names(seen(merged)) == names(tree)
    mount(base)
    try:
        assert seen(base / "merged") == tree
    finally:
        run("umount", base / "merged")


@pytest.mark.one_transport
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["", "1"], ids=["devices", "files"])
def test_what_fuse_overlayfs_leaves_is_shown_the_same(base: Path, seed: int, kind: str) -> None:
    env = {"FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT": "1"} if kind else {}
    with fuse_overlayfs(base, **env) as merged:
        scribble(merged, seed)
        tree = seen(merged)
    shutil.rmtree(base / "work")
    (base / "work").mkdir()
    mount(base, *AUFS)
    try:
        assert names(seen(base / "merged")) == names(tree)
        scribble(base / "merged", seed + 100)
        tree = seen(base / "merged")
    finally:
        run("umount", base / "merged")
    with fuse_overlayfs(base) as merged:
        assert names(seen(merged)) == names(tree)


@needs_overlayfs
def test_upper_on_overlayfs_which_takes_no_devices(base: Path) -> None:
    """A container's own root directory: refused with the option to take, and it works with that."""
    for name in ("inner/upper", "inner/work", "inner/merged"):
        (base / name).mkdir(parents=True)
    with overlayfs(
        [base / "lower"], base / "inner/upper", base / "inner/work", base / "inner/merged"
    ) as outer:
        for name in ("u", "w"):
            (outer / name).mkdir()
        layers = [base / "lower", outer / "u", outer / "w", base / "merged"]
        complaint = run("mount", *layers, status=1).stderr
        assert "cannot hold whiteouts (mknod of a character device 0/0: Operation not permitted)" in complaint
        assert "-o whiteouts=aufs" in complaint
        assert os.listdir(outer / "w") == []
        run("mount", *AUFS, *layers)
        try:
            scribble(base / "merged", 7)
            (base / "merged" / "last").mkdir()
            tree = seen(base / "merged")
        finally:
            run("umount", base / "merged")
        run("mount", *AUFS, *layers)
        try:
            assert seen(base / "merged") == tree
        finally:
            run("umount", base / "merged")


@needs_overlayfs
def test_auto_takes_what_works(base: Path) -> None:
    """As for container engines, which run inside containers, too."""
    for name in ("inner/upper", "inner/work", "inner/merged"):
        (base / name).mkdir(parents=True)
    mount(base, "-o", "whiteouts=auto")
    try:
        (base / "merged" / "a").unlink()
        assert not [word for word in statuses(base / "merged")[0]["options"] if "whiteouts" in word]
    finally:
        run("umount", base / "merged")
    assert disk(base / "upper") == {"a": "whiteout"}
    layers = [base / "lower"], base / "inner/upper", base / "inner/work", base / "inner/merged"
    with overlayfs(*layers) as outer:
        for name in ("u", "w"):
            (outer / name).mkdir()
        words = f"lowerdir={base}/lower,upperdir={outer}/u,workdir={outer}/w"
        run("mount", "-o", f"whiteouts=auto,{words}", base / "merged")
        try:
            (base / "merged" / "a").unlink()
            assert "whiteouts=aufs" in statuses(base / "merged")[0]["options"]
        finally:
            run("umount", base / "merged")
        assert os.listdir(outer / "u") == [".wh.a"]
        run("-o", words, base / "merged")
        try:
            (base / "merged" / "b").unlink()
            assert sorted(os.listdir(base / "merged")) == ["c", "d", "e", "empty"]
        finally:
            run("umount", base / "merged")
        assert sorted(os.listdir(outer / "u")) == [".wh.a", ".wh.b"]


def test_upper_on_a_union_is_refused(base: Path) -> None:
    with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged"):
        for name in ("u", "w"):
            (base / "merged" / name).mkdir()
        (base / "m").mkdir()
        layers = [base / "lower", base / "merged" / "u", base / "merged" / "w", base / "m"]
        said = run("mount", *AUFS, *layers, status=1).stderr
        assert "cannot hold .wh. files (Invalid argument), which a union hides" in said
        assert os.listdir(base / "merged" / "w") == []


def test_status_and_contradictions(base: Path) -> None:
    layers = [base / name for name in ("lower", "upper", "work", "merged")]
    said = run("mount", "-o", "whiteouts=aufs,redirect_dir=on", *layers, status=2).stderr
    assert "whiteouts=aufs and redirect_dir=on conflict" in said
    said = run("mount", "-o", "whiteouts=aufs,metacopy=on", *layers, status=2).stderr
    assert "whiteouts=aufs and metacopy=on conflict" in said
    mount(base, *AUFS)
    try:
        words = statuses(base / "merged")[0]["options"]
        assert ("whiteouts=aufs" in words, [word for word in words if "redirect" in word]) == (True, [])
        (base / "merged" / "d").rename(base / "merged" / "f")
        assert (base / "merged" / "f" / "deep" / "z").read_text() == "z"
        assert not (base / "merged" / "d").exists()
    finally:
        run("umount", base / "merged")
    assert (base / "upper" / ".wh.d").is_file()
