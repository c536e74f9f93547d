"""unlink and rmdir: what the caller sees, and which marks upper gets."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import WHITEOUT, Spec, Tree, directory, disk, file, node, symlink
from tests.support.mounts import needs_overlayfs

KINDS: dict[str, Spec] = {
    "file": "data",
    "symlink": symlink("nowhere"),
    "fifo": node(stat.S_IFIFO | 0o600),
    "device": node(stat.S_IFCHR | 0o600, os.makedev(1, 3)),
}


@pytest.fixture
def stack(either: Stack) -> Stack:
    return either


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["lower", "two lowers", "upper", "upper and lower", "upper over whiteout"])
def test_unlink(stack: Stack, kind: str, place: str) -> None:
    x: Tree = {"d": {"x": KINDS[kind]}}
    upper: Tree = x if place.startswith("upper") else {}
    lowers: dict[str, list[Tree]] = {
        "lower": [{"d": {}}, x],
        "two lowers": [x, x],
        "upper": [{"d": {}}],
        "upper and lower": [x],
        "upper over whiteout": [{"d": {"x": WHITEOUT}}, x],
    }
    stack.layers(*lowers[place], upper=upper)
    with stack.open() as view:
        view.unlink("d/x")
        assert not view.exists("d/x")
        assert view.ls("d") == []
        with pytest.raises(FileNotFoundError):
            view.unlink("d/x")
        view.forget_all()
        assert not view.exists("d/x")
    held = disk(stack.upper)
    if place in ("upper", "upper over whiteout"):
        assert held == {"d": "dir"}
    else:
        d = "dir" if place == "upper and lower" else "dir origin"
        assert held == {"d": d, "d/x": "whiteout"}
    assert stack.work_names() == []
    with stack.open() as view:
        assert not view.exists("d/x")


RMDIR: dict[str, tuple[tuple[Tree, ...], dict[str, str]]] = {
    # upper, lowers...; what upper holds afterwards
    "lower": (({}, {"x": {}}), {"x": "whiteout"}),
    "two lowers": (({}, {"x": {}}, {"x": {}}), {"x": "whiteout"}),
    "upper": (({"x": {}}, {"pad": ""}), {}),
    "merged": (({"x": {}}, {"x": {}}), {"x": "whiteout"}),
    "merged, opaque": (({"x": directory({}, opaque="y")}, {"x": {"hidden": ""}}), {"x": "whiteout"}),
    "merged, whiteouts inside": (
        ({"x": {"a": WHITEOUT, "b": WHITEOUT}}, {"x": {"a": "", "b": {"deep": ""}}}),
        {"x": "whiteout"},
    ),
    "whiteouts in the lower": (({}, {"x": {"a": WHITEOUT}}, {"x": {"a": ""}}), {"x": "whiteout"}),
    "upper, stale whiteouts inside": (({"x": {"a": WHITEOUT}}, {"pad": ""}), {}),
    "upper over a whiteout": (({"x": {}}, {"x": WHITEOUT}, {"x": {"a": ""}}), {}),
    "upper over a file": (({"x": directory({}, opaque="y")}, {"x": "file"}), {"x": "whiteout"}),
    ".wh. files inside": (({"x": {".wh.a": "", ".wh..wh..opq": ""}}, {"x": {"a": ""}}), {"x": "whiteout"}),
    "whiteout files inside": (
        ({}, {"x": directory({"a": file("", whiteout="y")}, opaque="x")}, {"x": {"a": ""}}),
        {"x": "whiteout"},
    ),
    "in a pure upper directory": (({"p": {"x": {}}}, {"pad": ""}), {"p": "dir"}),
    "redirected": (
        ({"x": directory({"a": WHITEOUT}, redirect="y"), "y": WHITEOUT}, {"y": {"a": ""}}),
        {"y": "whiteout"},
    ),
}


@pytest.mark.parametrize("case", RMDIR)
@pytest.mark.parametrize("listed", [False, True])
def test_rmdir(stack: Stack, case: str, listed: bool) -> None:
    layers, wanted = RMDIR[case]
    stack.layers(*layers[1:], upper=layers[0])
    path = "p/x" if "p" in layers[0] else "x"
    with stack.open() as view:
        if listed:
            assert view.ls(path) == []
        view.rmdir(path)
        assert not view.exists(path)
        view.forget_all()
        assert not view.exists(path)
        tree = view.tree()
    assert disk(stack.upper) == wanted
    assert stack.work_names() == []
    if ".wh." not in case:
        assert stack.kernel("redirect_dir=on") == tree


@pytest.mark.parametrize(
    "layers",
    [
        ({}, {"x": {"a": ""}}),
        ({"x": {"a": ""}}, {"pad": ""}),
        ({"x": {"a": ""}}, {"x": {}}),
        ({"x": {}}, {"x": {"a": ""}}),
        ({"x": {"a": WHITEOUT}}, {"x": {"a": "", "b": ""}}),
        ({"x": {}}, {"x": {"a": WHITEOUT}}, {"x": {"a": "", "deep": {}}}),
        ({"x": {"a": {}}}, {"x": {"a": WHITEOUT}}),
    ],
)
def test_rmdir_of_a_full_directory(stack: Stack, layers: tuple[Tree, ...]) -> None:
    stack.layers(*layers[1:], upper=layers[0])
    before = disk(stack.upper)
    with stack.open() as view:
        for _ in range(2):
            with pytest.raises(OSError) as failure:
                view.rmdir("x")
            assert failure.value.errno == errno.ENOTEMPTY
            view.ls("x")
        assert view.exists("x")
    assert disk(stack.upper) == before
    assert stack.work_names() == []


def test_wrong_types(stack: Stack) -> None:
    stack.layers({"f": "", "d": {}, "l": symlink("d")})
    with stack.open() as view:
        with pytest.raises(IsADirectoryError):
            view.unlink("d")
        with pytest.raises(NotADirectoryError):
            view.rmdir("f")
        with pytest.raises(NotADirectoryError):
            view.rmdir("l")
        with pytest.raises(FileNotFoundError):
            view.rmdir("none")
        with pytest.raises(NotADirectoryError):
            view.union.lookup(view.ino("f"), b"x")
    assert disk(stack.upper) == {}


@needs_overlayfs
def test_removing_a_whole_tree(stack: Stack) -> None:
    stack.layers(
        {"t": {"a": {"b": {"c": "1", "d": "1"}, "e": "1"}, "f": "1"}},
        {"t": {"a": {"b": {"c": "2", "x": "2"}, "y": {}}, "g": {"h": "2"}}},
        upper={"t": {"a": {"b": {"new": "0"}}, "g": {"i": "0"}, "own": {"o": "0"}}},
    )
    with stack.open() as view:

        def remove(path: str) -> None:
            for name in view.ls(path):
                below = f"{path}/{name}"
                if stat.S_ISDIR(view.stat(below).st_mode):
                    remove(below)
                else:
                    view.unlink(below)
            view.rmdir(path)

        remove("t")
        assert view.ls() == []
        view.forget_all()
        assert view.union.stats()["inodes"] == 1
        view.mkdir("t")
        assert view.ls("t") == []
        tree = view.tree()
    assert disk(stack.upper) == {"t": "dir opaque"}
    assert stack.kernel() == tree


def test_whiteouts_share_one_inode(stack: Stack) -> None:
    """As overlayfs's: a deletion of a hundred thousand names costs no hundred thousand inodes."""
    stack.layers({f"f{i}": "" for i in range(10)})
    with stack.open() as view:
        for i in range(10):
            view.unlink(f"f{i}")
    inodes = {(stack.upper / f"f{i}").lstat().st_ino for i in range(10)}
    assert len(inodes) == 1
    assert (stack.upper / "f0").lstat().st_nlink == 10
    assert stack.work_names() == []


def test_deletion_changes_the_parents_times_only(stack: Stack) -> None:
    stack.layers({"a": {"b": {"f": ""}}})
    with stack.open() as view:
        times = [view.stat(path).st_mtime_ns for path in ("a", "a/b")]
        view.unlink("a/b/f")
        assert view.stat("a").st_mtime_ns == times[0]
        assert view.stat("a/b").st_mtime_ns > times[1]


def test_lower_is_never_written(stack: Stack) -> None:
    stack.layers({"d": {"f": "data", "e": {}}})

    def state() -> list[tuple[Path, os.stat_result]]:
        return [(path, path.lstat()) for path in sorted(stack.lowers[0].rglob("*"))]

    before = state()
    with stack.open() as view:
        view.read("d/f")
        view.write("d/f", b"changed")
        view.unlink("d/f")
        view.rmdir("d/e")
        view.rmdir("d")
    assert state() == before
