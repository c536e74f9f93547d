"""`timeout=`: layers that change underneath are seen, by the next lookup, and nothing of the old is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import WHITEOUT, build, disk


@pytest.fixture
def stack(base: Path) -> Stack:
    stack = Stack(base)
    stack.timeout = 1.0
    return stack


def test_names_come_and_go(stack: Stack) -> None:
    stack.layers({"d": {"a": "a"}}, {"d": {"b": "b"}})
    top, bottom = stack.lowers
    with stack.open() as view:
        assert view.ls("d") == ["a", "b"]
        (top / "d/new").write_text("n")
        (bottom / "d/new2").write_text("n2")
        assert view.ls("d") == ["a", "b", "new", "new2"]
        assert (view.read("d/new"), view.read("d/new2")) == (b"n", b"n2")
        (bottom / "d/b").unlink()
        assert not view.exists("d/b")
        assert view.ls("d") == ["a", "new", "new2"]
        os.mknod(top / "d/new2", 0o020000, 0)
        assert not view.exists("d/new2")
        (stack.upper / "d").mkdir()
        (stack.upper / "d/up").write_text("u")
        assert view.ls("d") == ["a", "new", "up"]
        assert view.read("d/up") == b"u"
        view.write("d/a", b"A")
        assert view.read("d/a") == b"A"
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


def test_content_and_attributes_change(stack: Stack) -> None:
    stack.layers({"f": "short"})
    with stack.open() as view:
        assert view.stat("f").st_size == 5
        (stack.lowers[0] / "f").write_text("much longer")
        assert view.stat("f").st_size == 11
        assert view.read("f") == b"much longer"


def test_object_is_replaced_by_another(stack: Stack) -> None:
    stack.layers({"x": "file", "d": {"in": ""}})
    lower = stack.lowers[0]
    with stack.open() as view:
        view.ino("x")
        view.ino("d/in")
        (lower / "x").unlink()
        (lower / "x").mkdir()
        (lower / "x/sub").write_text("s")
        assert view.ls("x") == ["sub"]
        (lower / "d/in").unlink()
        (lower / "d").rmdir()
        (lower / "d").write_text("now a file")
        assert view.read("d") == b"now a file"
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


def test_file_is_replaced_by_rename(stack: Stack) -> None:
    """What editors and package managers do: the name is another inode now."""
    stack.layers({"f": "old"}, upper={"u": "old"})
    with stack.open() as view:
        old, old_upper = view.ino("f"), view.ino("u")
        for root, name in ((stack.lowers[0], "f"), (stack.upper, "u")):
            (root / "new").write_text("new")
            os.rename(root / "new", root / name)
        assert view.read("f") == view.read("u") == b"new"
        assert view.ino("f") != old
        assert view.ino("u") != old_upper
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


def test_changes_through_the_union_are_seen_at_once(stack: Stack) -> None:
    stack.layers({"d": {"a": "a", "b": "b"}}, {"d": {"c": "c"}}, upper={"d": {"w": WHITEOUT}})
    with stack.open() as view:
        view.unlink("d/a")
        view.create("d/w", b"w")
        view.rename("d/b", "d/B")
        view.mkdir("d/a")
        assert view.ls("d") == ["B", "a", "c", "w"]
        assert view.ls("d/a") == []
        view.rmdir("d/a")
        for name in ("B", "c", "w"):
            view.unlink(f"d/{name}")
        view.rmdir("d")
        assert view.ls() == []
    assert disk(stack.upper) == {"d": "whiteout"}


def test_whole_layer_is_filled_later(stack: Stack) -> None:
    stack.layers({}, {})
    with stack.open() as view:
        assert view.ls() == []
        build(stack.lowers[1], {"a": {"b": {"c": "c"}}})
        assert view.read("a/b/c") == b"c"
        build(stack.lowers[0], {"a": {"x": "x"}})
        assert view.ls("a") == ["b", "x"]
        assert view.read("a/x") == b"x"


def test_a_file_with_several_names_is_still_one_after_its_copy_up(stack: Stack) -> None:
    """It has no origin without an index, so only its name says that it is the file that has come up."""
    stack.layers({"d": {"one": "1"}, "copied": "data", "file": "f"})
    os.link(stack.lowers[0] / "file", stack.lowers[0] / "d/second")
    with stack.open() as view:
        view.rename("file", "copied")
        assert view.ino("copied") == view.ino("d/second")
        assert view.read("d/second") == b"f"
