"""Marks that hide: devices 0/0, whiteout files in opaque=x directories, `.wh.NAME`, opaque=y, `.wh..wh..opq`.

Each in every layer of a stack of four, in the root and below it. What kernel overlayfs knows of these is
asked of it; the container marks it does not know.
"""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import WHITEOUT, Spec, Tree, directory, file, node, symlink
from tests.support.mounts import needs_overlayfs

LAYERS = ("upper", "top", "middle", "bottom")
HIDES: dict[str, Tree] = {
    "device": {"x": WHITEOUT},
    "wh": {".wh.x": ""},
    "both": {"x": WHITEOUT, ".wh.x": ""},
}
KINDS: dict[str, Spec] = {
    "file": "below",
    "dir": {"in": "below"},
    "link": symlink("elsewhere"),
    "fifo": node(stat.S_IFIFO | 0o644),
}


@pytest.fixture
def stack(either: Stack) -> Stack:
    return either


pytestmark = needs_overlayfs


def put(where: str, entries: Tree) -> Tree:
    return entries if where == "root" else {"sub": {"deep": dict(entries)}}


def prefix(where: str) -> str:
    return "" if where == "root" else "sub/deep/"


@pytest.mark.parametrize("where", ["root", "below"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", range(4), ids=LAYERS)
@pytest.mark.parametrize("mark", HIDES)
def test_name_is_hidden_in_the_layers_below(stack: Stack, mark: str, at: int, kind: str, where: str) -> None:
    trees = [put(where, {"other": "o"}) for _ in range(4)]
    trees[at] = put(where, HIDES[mark])
    for below in range(at + 1, 4):
        trees[below] = put(where, {"x": KINDS[kind], f"only{below}": ""})
    stack.layers(*trees[1:], upper=trees[0])
    with stack.open() as view:
        path = prefix(where)
        assert not view.exists(path + "x")
        listed = view.ls(path.rstrip("/"))
        assert listed == sorted([f"only{below}" for below in range(at + 1, 4)] + (["other"] if at else []))
        assert not view.exists(path + "x"), "the listing has changed the answer"
        tree = view.tree()
    if mark == "device":
        assert tree == stack.kernel()


@pytest.mark.parametrize("at", [1, 2, 3], ids=LAYERS[1:])
@pytest.mark.parametrize("mark", HIDES)
def test_what_lies_above_a_mark_is_there(stack: Stack, mark: str, at: int) -> None:
    trees: list[dict[str, Spec]] = [{} for _ in range(4)]
    trees[at - 1]["x"] = {"above": "a"}
    trees[at] = dict(HIDES[mark])
    for below in range(at + 1, 4):
        trees[below]["x"] = {"below": "b"}
    stack.layers(*trees[1:], upper=trees[0])
    with stack.open() as view:
        assert view.ls("x") == ["above"]
        assert view.read("x/above") == b"a"
        assert not view.exists("x/below")
        tree = view.tree()
    if mark == "device":
        assert tree == stack.kernel()


@pytest.mark.parametrize("listed_first", [False, True])
@pytest.mark.parametrize("at", range(3), ids=LAYERS[:3])
def test_directory_beside_its_own_wh_file_does_not_merge(stack: Stack, at: int, listed_first: bool) -> None:
    """A container layer that deletes a directory and makes it anew holds both, in no order."""
    trees: list[dict[str, Spec]] = [{"pad": ""} for _ in range(4)]
    trees[at] = {"x": {"new": "n"}, ".wh.x": ""}
    for below in range(at + 1, 4):
        trees[below]["x"] = {"old": "o"}
    stack.layers(*trees[1:], upper=trees[0])
    with stack.open() as view:
        if listed_first:
            assert view.ls() == ["pad", "x"]
        assert view.ls("x") == ["new"]
        assert not view.exists("x/old")


@pytest.mark.parametrize("mark", ["opaque", "wh"])
@pytest.mark.parametrize("at", range(4), ids=LAYERS)
@pytest.mark.parametrize("where", ["root", "below"])
def test_opaque_directory_hides_what_is_below(stack: Stack, mark: str, at: int, where: str) -> None:
    trees: list[Tree] = []
    for layer in range(4):
        entries: dict[str, Spec] = {f"from{layer}": str(layer), "same": str(layer)}
        spec: Spec = entries
        if layer == at:
            spec = directory(entries, opaque="y") if mark == "opaque" else {**entries, ".wh..wh..opq": ""}
        trees.append(put(where, {"d": spec}))
    stack.layers(*trees[1:], upper=trees[0])
    with stack.open() as view:
        path = prefix(where) + "d"
        assert view.ls(path) == [*[f"from{layer}" for layer in range(at + 1)], "same"]
        for layer in range(4):
            assert view.exists(f"{path}/from{layer}") == (layer <= at)
        assert view.read(path + "/same") == b"0"
        tree = view.tree()
    if mark == "opaque":
        assert tree == stack.kernel()


@pytest.mark.parametrize("at", range(1, 4), ids=LAYERS[1:])
def test_a_file_in_a_lowers_root_hides_all_layers_below(stack: Stack, at: int) -> None:
    trees: list[Tree] = []
    for layer in range(4):
        entries: dict[str, Spec] = {f"from{layer}": str(layer), "d": {f"in{layer}": ""}}
        trees.append({**entries, ".wh..wh..opq": ""} if layer == at else dict(entries))
    stack.layers(*trees[1:], upper=trees[0])
    with stack.open() as view:
        assert view.ls("") == ["d", *[f"from{layer}" for layer in range(at + 1)]]
        assert view.ls("d") == [f"in{layer}" for layer in range(at + 1)]
        for layer in range(4):
            assert view.exists(f"from{layer}") == (layer <= at)
            assert view.exists(f"d/in{layer}") == (layer <= at)


def test_overlayfs_asks_no_root_whether_it_is_opaque(stack: Stack) -> None:
    stack.layers({"a": ""}, {"b": ""}, upper={"c": ""})
    for name in ("upper", "lower0"):
        os.setxattr(stack.base / name, "trusted.overlay.opaque", b"y")
    with stack.open() as view:
        assert view.ls("") == ["a", "b", "c"]
        tree = view.tree()
    assert tree == stack.kernel()


@pytest.mark.parametrize("value", ["n", "", "yy", "Y"])
def test_other_values_of_opaque_mean_nothing(stack: Stack, value: str) -> None:
    stack.layers({"d": directory({"a": ""}, opaque=value)}, {"d": {"b": ""}})
    with stack.open() as view:
        assert view.ls("d") == ["a", "b"]
        tree = view.tree()
    assert tree == stack.kernel()


@pytest.mark.parametrize("value", ["y", "x"])
@pytest.mark.parametrize("at", range(1, 4), ids=LAYERS[1:])
@pytest.mark.parametrize("where", ["sub", "sub/deep"])
def test_whiteout_files_hide(stack: Stack, value: str, at: int, where: str) -> None:
    """Zero-size files with overlay.whiteout. overlayfs never finds one; it lists them without opaque=x."""
    trees: list[Tree] = []
    for layer in range(4):
        entries: dict[str, Spec] = {f"pad{layer}": ""}
        if layer > at:
            entries |= {"x": "below", "y": "below", "z": "below"}
        spec: Spec = entries
        if layer == at:
            entries |= {
                "x": file("", whiteout="y"),
                "y": file("not empty", whiteout="y"),
                "z": file("", whiteout=""),
            }
            spec = directory(entries, opaque=value)
        for part in reversed(where.split("/")):
            spec = {part: spec}
        assert isinstance(spec, dict)
        trees.append(spec)
    stack.layers(*trees[1:], upper=trees[0])
    with stack.open() as view:
        tree = view.tree()
        for name in ("x", "y", "z"):
            assert view.exists(f"{where}/{name}") == (f"{where}/{name}" in tree)
        assert view.read(f"{where}/y") == b"not empty"
        if value == "x" and at < 3:
            assert f"{where}/x" not in tree
            assert f"{where}/z" not in tree
    assert tree == stack.kernel()


@pytest.mark.parametrize("value", ["x", "y", ""])
@pytest.mark.parametrize("at", range(4), ids=LAYERS)
def test_whiteout_files_in_the_root(stack: Stack, value: str, at: int) -> None:
    trees: list[Tree] = [{f"pad{layer}": ""} for layer in range(4)]
    trees[at] = {"x": file("", whiteout="y")}
    for below in range(at + 1, 4):
        trees[below] = {"x": "below"}
    stack.layers(*trees[1:], upper=trees[0])
    if value:
        os.setxattr([stack.upper, *stack.lowers][at], "trusted.overlay.opaque", value.encode())
    with stack.open() as view:
        tree = view.tree()
    assert tree == stack.kernel()


@pytest.mark.parametrize("value", ["x", ""])
def test_whiteout_files_in_upper(stack: Stack, value: str) -> None:
    entries = {"x": file("", whiteout="y"), "own": file("", whiteout="y")}
    d = directory(entries, opaque=value) if value else directory(entries)
    stack.layers({"d": {"x": "below", "z": "z"}}, {"d": {"x": "more"}}, upper={"d": d})
    with stack.open() as view:
        tree = view.tree()
    assert tree == stack.kernel()


def test_userxattr_reads_the_user_marks_and_no_trusted_ones(stack: Stack) -> None:
    stack.layers({"d": {"low": ""}, "e": {"low": ""}}, upper={"d": {"up": ""}, "e": {"up": ""}})
    os.setxattr(stack.upper / "d", "user.overlay.opaque", b"y")
    os.setxattr(stack.upper / "e", "trusted.overlay.opaque", b"y")
    with stack.open(userxattr=True) as view:
        assert view.ls("d") == ["up"]
        assert view.ls("e") == ["low", "up"]
    with stack.open() as view:
        assert view.ls("d") == ["low", "up"]
        assert view.ls("e") == ["up"]


# --- names that are marks --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".wh.x", ".wh.", ".wh..wh..opq", ".wh..wh.plnk", ".wh..wh.aufs"])
@pytest.mark.parametrize("at", range(3), ids=LAYERS[:3])
@pytest.mark.parametrize("only", [False, True])
def test_wh_names_are_never_visible(stack: Stack, name: str, at: int, only: bool) -> None:
    trees: list[Tree] = [{} if only else {"d": {}} for _ in range(3)]
    trees[at] = {"d": {name: "", "there": "t"}}
    stack.layers(*trees[1:], upper=trees[0])
    with stack.open() as view:
        assert view.ls("d") == ["there"]
        assert not view.exists(f"d/{name}")


@pytest.mark.parametrize("name", [".wh.x", ".wh.", ".wh..wh..opq"])
def test_wh_names_cannot_be_made(stack: Stack, name: str) -> None:
    stack.layers({"f": "f", "d": {}})
    with stack.open() as view:
        for make in (
            lambda: view.create(name),
            lambda: view.mkdir(name),
            lambda: view.symlink("t", name),
            lambda: view.mknod(name, stat.S_IFIFO | 0o600),
            lambda: view.link("f", name),
            lambda: view.rename("f", name),
            lambda: view.rename("d", name),
        ):
            with pytest.raises(OSError) as failure:
                make()
            assert failure.value.errno == errno.EINVAL
        with pytest.raises(FileNotFoundError):
            view.unlink(name)
        view.create(".wh", b"1")
        view.create("wh.x", b"2")
        assert view.ls() == [".wh", "d", "f", "wh.x"]
    assert not (stack.upper / name).exists()


@pytest.mark.parametrize("length", [255, 256, 1000])
def test_long_names(stack: Stack, length: int) -> None:
    name = "n" * length
    stack.layers({"f": "f"})
    with stack.open() as view:
        if length <= 255:
            assert not view.exists(name)
            view.create(name, b"long")
            assert view.read(name) == b"long"
            return
        for act in (
            lambda: view.exists(name),
            lambda: view.create(name),
            lambda: view.mkdir(name),
            lambda: view.symlink("t", name),
            lambda: view.link("f", name),
            lambda: view.rename("f", name),
            lambda: view.unlink(name),
        ):
            with pytest.raises(OSError) as failure:
                act()
            assert failure.value.errno == errno.ENAMETOOLONG
    assert os.listdir(stack.upper) == []
