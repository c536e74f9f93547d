"""A file of many names: what giving it one more or taking one away costs does not grow with their number.

Steps are counted, not time: lines of the union that run, and calls that it makes into C.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import Tree
from unionfs.overlay.access import containing, lent_for
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import ROOT_INO, File
from unionfs.overlay.names import Bag
from unionfs.overlay.wait import complete

FEW, MANY = 40, 400
SLACK = 25
"""What the first of a kind of operation may take more, and a table that grows; MANY is far above that."""


def steps(operation: Callable[..., object], *args: object) -> int:
    """How many steps an operation takes."""
    count = 0

    def line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "c_call"

    before, profile = sys.gettrace(), sys.getprofile()
    gc.disable()  # finalizers and gc.callbacks of whatever else the process has left would be counted
    sys.settrace(line)
    sys.setprofile(call)
    try:
        operation(*args)
    finally:
        sys.setprofile(profile)
        sys.settrace(before)
        gc.enable()
    return count


def another(base: Path, count: int, tree: Tree) -> Stack:
    directory = base / str(count)
    directory.mkdir()
    return Stack(directory).layers(tree)


def linked(view: View, name: str, count: int) -> int:
    """Give a file further names; the most steps that one of them took."""
    ino = view.ino(name)
    made = [
        steps(complete, view.union.link, ino, ROOT_INO, f"{name}.{at}".encode()) for at in range(1, count)
    ]
    view.known[ino] += count - 1
    return max(made)


def removed(view: View, names: list[str]) -> int:
    """Remove all names; the most steps that one of them took, the last aside."""
    took = [steps(complete, view.union.unlink, ROOT_INO, name.encode()) for name in names]
    assert view.ls() == []
    return max(took[:-1])


def in_order(view: View, name: str, count: int, order: str) -> list[str]:
    names = [name, *(f"{name}.{at}" for at in range(1, count))]
    return names[::-1] if order == "backward" else names


@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("kind", ["new", "lower", "index"])
def test_steps_of_links_do_not_grow(base: Path, kind: str, order: str) -> None:
    """Links made of a new file and of a lower's, and removed."""
    most: list[tuple[int, int]] = []
    for count in (FEW, MANY):
        stack = another(base, count, {"f": "data"} if kind != "new" else {})
        with stack.open(index=kind == "index") as view:
            if kind == "new":
                view.create("f")
            else:
                view.write("f", b"more")
            links = linked(view, "f", count)
            most.append((links, removed(view, in_order(view, "f", count, order))))
    assert most[1][0] <= most[0][0] + SLACK
    assert most[1][1] <= most[0][1] + SLACK


@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("kind", ["lower", "first in upper", "all in upper", "index"])
def test_steps_of_removing_a_lowers_links_do_not_grow(base: Path, kind: str, order: str) -> None:
    """Names that a lower has, all known: none copied up, or one of them, or all."""
    most: list[int] = []
    for count in (FEW, MANY):
        stack = another(base, count, {"f": "data"})
        for at in range(1, count):
            os.link(stack.lowers[0] / "f", stack.lowers[0] / f"f.{at}")
        names = ["f", *(f"f.{at}" for at in range(1, count))]
        with stack.open(index=kind == "index") as view:
            if kind == "first in upper":
                view.write("f", b"more")
            for name in names:
                view.find(name)
            if kind in ("all in upper", "index"):
                view.write("f", b"more")
            most.append(removed(view, names[::-1] if order == "backward" else names))
    assert most[1] <= most[0] + SLACK


def test_names_in_one_directory_are_one_place_to_lend(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user's daemon lends itself each directory once, not once for each name in it."""
    lent: list[int] = []
    stack.layers({"f": "data"})
    with stack.open() as view:
        view.write("f", b"more")
        view.mkdir("d")
        linked(view, "f", FEW)
        view.link("f", "d/other")
        inode = view.file("f")
        fs = view.union.fs
        assert len(list(inode.names())) == FEW + 1
        assert len(containing(inode)) == 2
        monkeypatch.setattr(OverlayFs, "lend_all", lambda self, places, needed: lent.append(len(places)))
        monkeypatch.setattr(fs, "lender", object())
        lent_for(fs, inode)
        assert fs.upper is not None
        lent_for(fs, inode, fs.upper.root)
        monkeypatch.undo()
    assert lent == [1, 1]


def test_a_bag_is_a_set() -> None:
    bag: Bag[int] = Bag()
    for one in (1, 2, 3, 2, 4):
        bag.add(one)
    assert (sorted(bag), len(bag), 2 in bag) == ([1, 2, 3, 4], 4, True)
    for one in (2, 4, 4, 9):
        bag.discard(one)
    assert (sorted(bag), 2 in bag, 3 in bag) == ([1, 3], False, True)
    bag.add(2)
    assert sorted(bag.pop() for _ in range(3)) == [1, 2, 3]
    with pytest.raises(IndexError):
        bag.pop()


def test_what_is_left_is_served_by_another_name(stack: Stack) -> None:
    """Whichever name goes, and whichever is the first: changes go where the remaining names show them."""
    stack.layers({})
    with stack.open() as view:
        view.create("f", b"0")
        linked(view, "f", 6)
        inode = view.file("f")
        assert isinstance(inode, File)
        for round_ in range(5):
            view.unlink(os.fsdecode(inode.upname))
            left = view.ls()
            view.write(left[0], b"%d" % round_)
            assert {(stack.upper / name).read_bytes() for name in left} == {b"%d" % round_}
            assert view.nlink(left[-1]) == len(left) == 5 - round_
