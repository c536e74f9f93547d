"""Redirects that layers hold: relative and absolute, in every layer, chained, below one another, and hostile
(invariant 6).

What a redirect means is asked of kernel overlayfs, by mounting the same layers.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import WHITEOUT, Tree, build, directory, file, symlink
from tests.support.mounts import needs_overlayfs, overlayfs

Layers = tuple[Tree, ...]
"""Upper first, then the lowers, top first."""

OLD: Tree = {"a": "a", "sub": {"b": "b"}}

READ: dict[str, tuple[Layers, list[str]]] = {
    "relative in upper": (
        ({"old": WHITEOUT, "new": directory({"c": "c"}, redirect="old")}, {"old": OLD}),
        ["new", "new/a", "new/c", "new/sub", "new/sub/b"],
    ),
    "absolute in upper": (
        (
            {"x": {"new": directory({"c": "c"}, redirect="/y/old")}, "y": {"old": WHITEOUT}},
            {"y": {"old": OLD}},
        ),
        ["x", "x/new", "x/new/a", "x/new/c", "x/new/sub", "x/new/sub/b", "y"],
    ),
    "relative in the top lower": (
        ({}, {"old": WHITEOUT, "new": directory({}, redirect="old")}, {"old": OLD}),
        ["new", "new/a", "new/sub", "new/sub/b"],
    ),
    "absolute in the middle lower": (
        (
            {},
            {"d": {"new": {"top": ""}}},
            {"d": {"new": directory({}, redirect="/e/old")}, "e": {"old": WHITEOUT}},
            {"e": {"old": OLD}, "d": {"new": {"stranger": ""}}},
        ),
        ["d", "d/new", "d/new/a", "d/new/sub", "d/new/sub/b", "d/new/top", "e"],
    ),
    "absolute below an opaque directory, at the end of another": (
        (
            {"new": directory({}, redirect="/o/in"), "o": WHITEOUT},
            {"o": directory({"in": directory({}, redirect="/real")}, opaque="y"), "real": WHITEOUT},
            {"real": OLD, "o": {"in": {"stranger": ""}}},
        ),
        ["new", "new/a", "new/sub", "new/sub/b"],
    ),
    "absolute below an opaque directory, on the way of another": (
        (
            {"new": directory({}, redirect="/o/in/sub"), "o": WHITEOUT},
            {"o": directory({"in": directory({}, redirect="/real")}, opaque="y"), "real": WHITEOUT},
            {"real": OLD, "o": {"in": {"sub": {"stranger": ""}}}},
        ),
        ["new", "new/b"],
    ),
    "relative below an opaque directory, at the end of another": (
        (
            {"new": directory({"own": ""}, redirect="/o/in"), "o": WHITEOUT},
            {"o": directory({"in": directory({}, redirect="real"), "real": WHITEOUT}, opaque="y")},
            {"o": {"real": OLD}},
        ),
        ["new", "new/own"],
    ),
    "in the bottom lower it says nothing": (
        ({}, {"new": {"t": ""}}, {"new": directory({"own": ""}, redirect="/old"), "old": OLD}),
        ["new", "new/own", "new/t", "old", "old/a", "old/sub", "old/sub/b"],
    ),
    "relative chain": (
        (
            {"c": directory({}, redirect="b"), "b": WHITEOUT},
            {"b": directory({"mid": ""}, redirect="a"), "a": WHITEOUT},
            {"a": OLD, "b": {"stranger": ""}, "c": {"stranger": ""}},
        ),
        ["c", "c/a", "c/mid", "c/sub", "c/sub/b"],
    ),
    "absolute chain": (
        (
            {"p": {"c": directory({}, redirect="/q/b")}, "q": {"b": WHITEOUT}},
            {"q": {"b": directory({"mid": ""}, redirect="/r/a")}, "r": {"a": WHITEOUT}},
            {"r": {"a": OLD}, "q": {"b": {"stranger": ""}}},
        ),
        ["p", "p/c", "p/c/a", "p/c/mid", "p/c/sub", "p/c/sub/b", "q", "r"],
    ),
    "absolute, then relative": (
        (
            {"p": {"c": directory({}, redirect="/q/b")}, "q": {"b": WHITEOUT}},
            {"q": {"b": directory({"mid": ""}, redirect="a"), "a": WHITEOUT}},
            {"q": {"a": OLD, "b": {"stranger": ""}}},
        ),
        ["p", "p/c", "p/c/a", "p/c/mid", "p/c/sub", "p/c/sub/b", "q"],
    ),
    "relative, then absolute": (
        (
            {"c": directory({}, redirect="b"), "b": WHITEOUT},
            {"b": directory({"mid": ""}, redirect="/r/a"), "r": {"a": WHITEOUT}},
            {"r": {"a": OLD}, "b": {"stranger": ""}},
        ),
        ["c", "c/a", "c/mid", "c/sub", "c/sub/b", "r"],
    ),
    "a component of the path is redirected": (
        (
            {"x": directory({}, redirect="/p/sub"), "p": {"sub": WHITEOUT}},
            {"p": directory({}, redirect="/o"), "o": WHITEOUT},
            {"o": {"sub": {"found": "f"}}, "p": {"sub": {"stranger": ""}}},
        ),
        ["p", "x", "x/found"],
    ),
    "a component is redirected relatively": (
        (
            {"x": directory({}, redirect="/d/p/sub"), "d": {"p": {"sub": WHITEOUT}}},
            {"d": {"p": directory({"sub": {"mid": ""}}, redirect="o"), "o": WHITEOUT}},
            {"d": {"o": {"sub": {"found": "f"}}, "p": {"sub": {"stranger": ""}}}},
        ),
        ["d", "d/p", "x", "x/found", "x/mid"],
    ),
    "below a redirected directory": (
        (
            {
                "new": directory({"kid": directory({}, redirect="born"), "born": WHITEOUT}, redirect="/old"),
                "old": WHITEOUT,
            },
            {"old": {"born": OLD, "kid": {"stranger": ""}}, "new": {"kid": {"stranger": ""}}},
        ),
        ["new", "new/kid", "new/kid/a", "new/kid/sub", "new/kid/sub/b"],
    ),
    "to nothing": (
        ({"new": directory({"own": ""}, redirect="/nowhere/at/all")}, {"new": {"stranger": ""}}),
        ["new", "new/own"],
    ),
    "to a file": (
        ({"new": directory({"own": ""}, redirect="/f")}, {"f": "f", "new": {"stranger": ""}}),
        ["f", "new", "new/own"],
    ),
    "through a file": (
        ({"new": directory({"own": ""}, redirect="/f/g")}, {"f": "f"}, {"f": {"g": OLD}}),
        ["f", "new", "new/own"],
    ),
    "to a whiteout above it": (
        ({"new": directory({"own": ""}, redirect="/old")}, {"old": WHITEOUT}, {"old": OLD}),
        ["new", "new/own"],
    ),
    "to an opaque directory": (
        (
            {"new": directory({}, redirect="/old"), "old": WHITEOUT},
            {"old": directory({"t": ""}, opaque="y")},
            {"old": OLD},
        ),
        ["new", "new/t"],
    ),
    "opaque goes before it": (
        ({"new": directory({"own": ""}, redirect="/old", opaque="y"), "old": WHITEOUT}, {"old": OLD}),
        ["new", "new/own"],
    ),
    "skips layers that lack it": (
        (
            {"new": directory({}, redirect="/old"), "old": WHITEOUT},
            {"pad": ""},
            {"old": {"a1": ""}},
            {"pad": ""},
            {"old": {"a2": ""}},
        ),
        ["new", "new/a1", "new/a2", "pad"],
    ),
    "absolute, in a directory that the upper layers lack": (
        (
            {},
            {"pad": ""},
            {"d": {"new": directory({}, redirect="/old")}, "old": WHITEOUT},
            {"old": OLD},
        ),
        ["d", "d/new", "d/new/a", "d/new/sub", "d/new/sub/b", "pad"],
    ),
}


@pytest.fixture
def stack(either: Stack) -> Stack:
    return either


@needs_overlayfs
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "listed first"])
@pytest.mark.parametrize("case", READ)
def test_redirect_leads_where_overlayfs_goes(stack: Stack, case: str, warm: bool) -> None:
    layers, visible = READ[case]
    stack.layers(*layers[1:], upper=layers[0])
    with stack.open() as view:
        if warm:
            view.tree()
            view.forget_all()
        else:
            missing = [path for path in visible if not view.exists(path)]
            assert missing == []
        tree = view.tree()
    theirs = stack.kernel("redirect_dir=on")
    assert sorted(theirs) == sorted(visible), "the table is wrong"
    assert tree == theirs


HOSTILE = [
    "..",
    ".",
    "",
    "/",
    "a/b",
    "../outside",
    "/../outside",
    "/a/../../outside",
    "/a//b",
    "//a",
    "/a/",
    "a/",
    "/./a",
    "a\0b",
    "x" * 256,
    "x" * 3000,
    "/" + "y/" * 300 + "z",
]


@needs_overlayfs
@pytest.mark.parametrize("layer", ["upper", "top", "bottom"])
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value[:20]))
def test_hostile_redirect(stack: Stack, value: str, layer: str) -> None:
    """Answers as overlayfs does, and never with something from outside of the layers."""
    target = directory({"own": ""}, redirect=value)
    trees: list[Tree] = [{"pad": ""}, {"pad": ""}, {"a": {"b": {"in": ""}, "in": ""}, "pad": ""}]
    place = {"upper": 0, "top": 1, "bottom": 2}[layer]
    trees[place] = {"d": target, "pad": ""}
    try:
        stack.layers(*trees[1:], upper=trees[0])
    except OSError:
        pytest.skip("this filesystem stores no such long value")
    build(stack.base / "outside", {"secret": "s"})

    def ours() -> tuple[int, list[str]]:
        with stack.open() as view:
            try:
                view.exists("d")
            except OSError as error:
                return error.errno or -1, []
            return 0, view.ls("d")

    def theirs() -> tuple[int, list[str]]:
        with overlayfs(
            stack.lowers, stack.upper, stack.work, stack.merged, options=["redirect_dir=on"]
        ) as merged:
            try:
                (merged / "d").stat()
            except OSError as error:
                return error.errno or -1, []
            return 0, sorted(os.listdir(merged / "d"))

    answer = ours()
    assert "secret" not in answer[1]
    assert answer == theirs()


@pytest.mark.parametrize("place", ["upper", "top"])
def test_nofollow_refuses(stack: Stack, place: str) -> None:
    new: Tree = {"new": directory({"own": ""}, redirect="/old"), "old": WHITEOUT, "plain": ""}
    if place == "upper":
        stack.layers({"old": OLD}, upper=new)
    else:
        stack.layers(new, {"old": OLD})
    with stack.open(redirect_dir="nofollow") as view:
        assert view.exists("plain")
        with pytest.raises(PermissionError):
            view.exists("new")
    with stack.open(redirect_dir="off") as view:
        assert view.ls("new") == ["a", "own", "sub"]


# --- symlinks and other strangers where a directory is expected -------------------------------------


@pytest.fixture
def outside(base: Path) -> Path:
    return build(base / "outside", {"secret": "s", "d": {"secret": "s"}})


@pytest.mark.parametrize("layer", ["top", "bottom"])
@pytest.mark.parametrize("redirect", ["/link/d", "/link", "/d/up/d"])
def test_redirect_through_a_symlink_goes_nowhere(
    stack: Stack, outside: Path, redirect: str, layer: str
) -> None:
    hostile: Tree = {"link": symlink(str(outside)), "d": {"up": symlink("../../outside")}}
    lowers: list[Tree] = [hostile, {"pad": ""}] if layer == "top" else [{"pad": ""}, hostile]
    stack.layers(*lowers, upper={"x": directory({"own": ""}, redirect=redirect)})
    with stack.open() as view:
        assert view.ls("x") == ["own"]
        assert not view.exists("x/secret")
        assert view.readlink("link") == str(outside)


def test_symlink_in_a_lower_does_not_merge_with_a_directory_above(stack: Stack, outside: Path) -> None:
    stack.layers({"d": {"own": ""}}, {"d": symlink(str(outside))}, {"d": {"deep": ""}})
    with stack.open() as view:
        assert view.ls("d") == ["own"]
        assert not view.exists("d/secret")
        view.create("d/new", b"n")
    assert not (outside / "new").exists()


def test_directory_swapped_for_a_symlink_while_mounted(stack: Stack, outside: Path) -> None:
    """Lowers should not change; if one does, nothing outside may be reached."""
    stack.layers({"d": {"sub": {"secret": "inner"}}})
    with stack.open() as view:
        view.ino("d/sub")
        view.union.fs.dirfds.close_all()
        (stack.lowers[0] / "d").rename(stack.lowers[0] / "gone")
        (stack.lowers[0] / "d").symlink_to(outside)
        with pytest.raises(OSError) as failure:
            view.exists("d/secret")
        assert failure.value.errno in (errno.ENOTDIR, errno.ELOOP)


def test_metacopy_redirect_does_not_follow_symlinks(stack: Stack, outside: Path) -> None:
    stack.layers(
        {"link": symlink(str(outside)), "to": symlink(str(outside / "secret"))},
        upper={
            "m": file(size=1, metacopy="", redirect="/link/secret"),
            "n": file(size=1, metacopy="", redirect="/to"),
        },
    )
    with stack.open(metacopy=True) as view:
        for name in ("m", "n"):
            with pytest.raises(OSError) as failure:
                view.read(name)
            assert failure.value.errno == errno.EIO
