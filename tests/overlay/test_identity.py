"""Inode numbers: constant across copy-up, rename, forgetting and remounts; unique; one for all hard links.

Invariant 10.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import Tree, build, disk, file, marks, symlink
from tests.support.mounts import loop_fs, needs_overlayfs, overlayfs
from unionfs.overlay.attr import Changes
from unionfs.overlay.table import Numbers
from unionfs.overlay.wait import complete

TREE: Tree = {"d": {"f": "f", "l": symlink("f"), "e": {"deep": "deep"}}, "top": "top"}
PATHS = ["d", "d/f", "d/l", "d/e", "d/e/deep", "top"]


def test_number_is_constant(stack: Stack) -> None:
    stack.layers(TREE)
    with stack.open() as view:
        before = {path: view.ino(path) for path in PATHS}
        for path in PATHS:
            view.change(path, mtime_ns=1)
        assert {path: view.ino(path) for path in PATHS} == before
        view.forget_all()
        assert {path: view.ino(path) for path in PATHS} == before
    for _ in range(2):
        with stack.open() as view:
            assert {path: view.ino(path) for path in PATHS} == before


def test_number_follows_a_rename_and_a_remount(stack: Stack) -> None:
    stack.layers(TREE)
    with stack.open() as view:
        f, d = view.ino("d/f"), view.ino("d")
        view.rename("d/f", "g")
        view.rename("d", "D")
        assert (view.ino("g"), view.ino("D")) == (f, d)
        view.create("d")
        assert view.ino("d") not in (f, d)
    with stack.open() as view:
        assert (view.ino("g"), view.ino("D")) == (f, d)


def test_number_of_what_replaces_is_new(stack: Stack) -> None:
    stack.layers({"f": "f"})
    with stack.open() as view:
        old = view.ino("f")
        view.create("n")
        new = view.ino("n")
        view.rename("n", "f")
        assert view.ino("f") == new != old
        view.unlink("f")
        assert view.create("f") != old


def test_numbers_are_unique_over_filesystems(stack: Stack, base: Path) -> None:
    """Small filesystems have the same inode numbers; those are told apart in the high bits."""
    with loop_fs("tmpfs", directory=base) as one, loop_fs("tmpfs", directory=base) as two:
        for at, root in enumerate((one, two)):
            build(root, {f"{at}{i}": "" for i in range(20)} | {"d": {f"{at}{i}": "" for i in range(20)}})
        stack.layers({f"2{i}": "" for i in range(20)})
        stack.lowers += [one, two]
        with stack.open() as view:
            numbers = list(view.entries().values()) + list(view.entries("d").values())
            files = [view.stat(name).st_ino for name in view.ls() if name != "d"]
            assert len(set(files)) < len(files), "the real numbers should clash, or this tests nothing"
            distinct = {
                ino for path in ("", "d") for name, ino in view.entries(path).items() if name[0] != "."
            }
            assert len(distinct) == 20 * 4 + 20 + 1
            assert 0 not in numbers
            before = {name: view.ino(name) for name in view.ls()}
            for name in view.ls():
                view.change(name, mtime_ns=2)
            assert {name: view.ino(name) for name in view.ls()} == before
        with stack.open() as view:
            assert {name: view.ino(name) for name in view.ls()} == before


def test_numbers() -> None:
    numbers = Numbers()
    assert numbers.of(5, 100) == 100
    assert numbers.of(6, 100) == 100 | 1 << 56
    assert numbers.of(7, 100) == 100 | 2 << 56
    assert numbers.of(6, 100) == 100 | 1 << 56
    # 1 is the root's; a number that does not fit below the high bits gets one for the mount's life.
    seen = {numbers.of(5, 1), numbers.of(5, 1 << 57), numbers.of(6, 1), numbers.allocate()}
    assert len(seen) == 4
    assert all(number >> 56 == 0x7F for number in seen)
    assert numbers.of(5, 1 << 57) in seen
    many = Numbers()
    assert len({many.of(dev, 100) for dev in range(300)}) == 300
    assert all(0 < many.of(dev, 100) < 1 << 63 for dev in range(300))


def test_copied_lower_shares_no_number(stack: Stack) -> None:
    """An upper whose origins lie (a copied upper, say) may not make two objects one."""
    stack.layers({"a": "a", "b": "b"})
    with stack.open() as view:
        view.write("a", b"A")
    origin = marks(stack.upper / "a")["origin"]
    (stack.upper / "stranger").write_text("s")
    os.setxattr(stack.upper / "stranger", "trusted.overlay.origin", origin)
    with stack.open() as view:
        assert view.ino("a") != view.ino("stranger")
        assert (view.read("a"), view.read("stranger")) == (b"A", b"s")
        view.write("stranger", b"S")
        assert (view.read("a"), view.read("stranger"), view.read("b")) == (b"A", b"S", b"b")


@pytest.mark.parametrize(
    "value",
    [b"", b"\0", b"junk", b"\0\xfb\x1d\0\x01" + b"u" * 16 + b"h" * 8, b"\0\xfb\xff\0\x01" + b"x" * 300],
)
def test_foreign_origin_is_ignored(stack: Stack, value: bytes) -> None:
    stack.layers({"f": "low"}, upper={"f": file("up")})
    os.setxattr(stack.upper / "f", "trusted.overlay.origin", value)
    with stack.open() as view:
        number = view.ino("f")
        assert view.read("f") == b"up"
        view.write("f", b"UP")
        assert view.ino("f") == number
    assert number == (stack.upper / "f").stat().st_ino


def test_origin_of_another_type_is_ignored(stack: Stack) -> None:
    stack.layers({"d": {}, "f": "f"})
    with stack.open() as view:
        view.chmod("d", 0o700)
        view.chmod("f", 0o600)
    os.setxattr(stack.upper / "f", "trusted.overlay.origin", marks(stack.upper / "d")["origin"])
    with stack.open() as view:
        assert view.ino("f") != view.ino("d")
        assert view.ls("d") == []
        assert view.read("f") == b"f"


# --- hard links ------------------------------------------------------------------------------------


def linked(stack: Stack, count: int = 3) -> Stack:
    """A lower file with some names: a, d/b, c ..., and a stranger."""
    stack.layers({"a": "data", "d": {}, "other": "o"})
    for name in ("d/b", "c", "e", "g")[: count - 1]:
        os.link(stack.lowers[0] / "a", stack.lowers[0] / name)
    return stack


LINK_NAMES = ["a", "d/b", "c"]


@pytest.mark.parametrize("index", [False, True], ids=["index=off", "index=on"])
def test_names_are_one_inode(stack: Stack, index: bool) -> None:
    linked(stack)
    with stack.open(index=index) as view:
        assert len({view.ino(name) for name in LINK_NAMES}) == 1
        assert {view.nlink(name) for name in LINK_NAMES} == {3}
        assert view.entries()["a"] == view.entries()["c"] == view.entries("d")["b"]
    assert disk(stack.upper) == {}


@pytest.mark.parametrize("index", [False, True], ids=["index=off", "index=on"])
@pytest.mark.parametrize("known", [True, False], ids=["names known", "names looked up later"])
def test_names_stay_one_file_after_copy_up(stack: Stack, index: bool, known: bool) -> None:
    linked(stack)
    with stack.open(index=index) as view:
        if known:
            for name in LINK_NAMES:
                view.ino(name)
        view.write("d/b", b"NEW!")
        assert {name: view.read(name) for name in LINK_NAMES} == dict.fromkeys(LINK_NAMES, b"NEW!")
        assert len({view.ino(name) for name in LINK_NAMES}) == 1
        assert {view.nlink(name) for name in LINK_NAMES} == {3}
        view.forget_all()
        assert {name: view.read(name) for name in LINK_NAMES} == dict.fromkeys(LINK_NAMES, b"NEW!")
        assert {view.nlink(name) for name in LINK_NAMES} == {3}
        view.write("a", b"AAAA")
        view.chmod("c", 0o611)
        assert {name: view.read(name) for name in LINK_NAMES} == dict.fromkeys(LINK_NAMES, b"AAAA")
        assert {view.stat(name).st_mode & 0o777 for name in LINK_NAMES} == {0o611}
    assert (stack.lowers[0] / "a").read_text() == "data"


def test_without_index_no_origin_is_written_on_a_link(stack: Stack) -> None:
    """As overlayfs: with several links an origin would make later mounts believe in one inode."""
    linked(stack)
    with stack.open() as view:
        view.write("a", b"A")
    assert "origin" not in marks(stack.upper / "a")


@pytest.mark.parametrize("index", [False, True], ids=["index=off", "index=on"])
def test_link_count_through_life(stack: Stack, index: bool) -> None:
    linked(stack)
    with stack.open(index=index) as view:
        view.unlink("c")
        assert view.nlink("a") == 2
        view.link("a", "new")
        assert view.nlink("d/b") == 3
        view.write("new", b"NEW!")
        assert view.read("d/b") == b"NEW!"
        view.rename("d/b", "moved")
        assert {view.nlink(name) for name in ("a", "moved", "new")} == {3}
        assert len({view.ino(name) for name in ("a", "moved", "new")}) == 1
        view.rename("other", "a")
        assert view.nlink("new") == 2
        view.unlink("moved")
        assert view.nlink("new") == 1
        assert view.read("new") == b"NEW!"
        handle = view.open("new")
        ino = view.ino("new")
        view.unlink("new")
        assert view.union.inode(ino).ino == ino
        assert view.read_handle(handle) == b"NEW!"
        view.union.release(handle)
        view.forget_all()
        assert view.union.stats()["inodes"] == 1
        assert view.ls() == ["a", "d"]
        assert view.ls("d") == []
    assert stack.work_names() == []
    assert stack.index_names() == []


def test_first_change_is_an_unlink(stack: Stack) -> None:
    linked(stack)
    with stack.open() as view:
        view.unlink("a")
        assert view.nlink("c") == 2
        view.write("c", b"NEW!")
        assert view.read("d/b") == b"NEW!"
        assert (view.nlink("c"), view.nlink("d/b")) == (2, 2)
        view.unlink("d/b")
        assert view.nlink("c") == 1


def test_upper_links_are_one_inode_across_remounts(stack: Stack) -> None:
    stack.layers({"low": "low", "d": {}})
    with stack.open() as view:
        view.create("a", b"new")
        view.link("a", "d/b")
        view.link("low", "d/low2")
        assert view.ino("a") == view.ino("d/b")
        assert view.ino("low") == view.ino("d/low2")
        assert view.nlink("a") == view.nlink("low") == 2
    with stack.open() as view:
        assert view.ino("a") == view.ino("d/b")
        assert view.ino("low") == view.ino("d/low2")
        assert view.nlink("a") == view.nlink("low") == 2
        view.write("d/b", b"NEW")
        assert view.read("a") == b"NEW"
        view.unlink("a")
        assert view.nlink("d/b") == 1


# --- index=on --------------------------------------------------------------------------------------


def test_index_entry_and_nlink_on_disk(stack: Stack) -> None:
    linked(stack)
    with stack.open(index=True) as view:
        view.write("a", b"NEW!")
        entries = stack.index_names()
        assert len(entries) == 1
        entry = stack.work / "index" / entries[0]
        assert entry.lstat().st_ino == (stack.upper / "a").lstat().st_ino
        assert bytes.fromhex(entries[0]) == marks(entry)["origin"]
        # The union's 3 links: upper has two (index and a).
        assert marks(entry)["nlink"] in (b"L+0", b"U+1")
        assert entry.lstat().st_nlink == 2
        # A change through another name finds the index; that name comes up when it is itself changed.
        view.write("d/b", b"more")
        view.rename("d/b", "d/B")
        assert entry.lstat().st_nlink == 3
        assert view.nlink("a") == 3
        held = disk(stack.upper)
        assert set(held) == {"a", "d", "d/B", "d/b"}
        assert held["d/b"] == "whiteout"
    assert stack.index_names() == entries
    assert stack.work_names() == []


def test_index_keeps_links_one_file_across_remounts(stack: Stack) -> None:
    linked(stack)
    with stack.open(index=True) as view:
        number = view.ino("a")
        view.write("d/b", b"NEW!")
    for _ in range(2):
        with stack.open(index=True) as view:
            for name in LINK_NAMES:
                assert view.read(name) == b"NEW!"
                assert view.ino(name) == number
                assert view.nlink(name) == 3
    with stack.open(index=True) as view:
        view.unlink("a")
        view.write("c", b"MORE")
    with stack.open(index=True) as view:
        assert view.read("d/b") == view.read("c") == b"MORE"
        assert view.nlink("c") == view.nlink("d/b") == 2
        view.unlink("c")
        assert view.nlink("d/b") == 1
    with stack.open(index=True) as view:
        assert view.nlink("d/b") == 1
        view.unlink("d/b")
    assert stack.index_names() == []
    assert disk(stack.upper) == {
        "a": "whiteout",
        "c": "whiteout",
        "d": "dir impure origin",
        "d/b": "whiteout",
    }


@needs_overlayfs
def test_index_is_the_kernels(stack: Stack) -> None:
    """Either mounts what the other has left, back and forth."""
    linked(stack)
    with stack.open(index=True) as view:
        view.write("a", b"one!")
        view.link("a", "new")
        view.unlink("c")
        tree = view.tree()
    assert stack.kernel("index=on", "redirect_dir=on") == tree
    with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged, options=["index=on"]) as merged:
        assert (merged / "d/b").read_text() == "one!"
        (merged / "d/b").write_text("two!")
        os.unlink(merged / "new")
    with stack.open(index=True) as view:
        assert view.read("a") == view.read("d/b") == b"two!"
        assert view.nlink("a") == view.nlink("d/b") == 2
        assert view.ino("a") == view.ino("d/b")
        view.unlink("a")
        view.unlink("d/b")
    assert stack.index_names() == []


def test_index_with_metacopy(stack: Stack) -> None:
    linked(stack)
    with stack.open(index=True, metacopy=True) as view:
        view.chmod("a", 0o600)
        assert view.read("c") == b"data"
        assert view.stat("c").st_mode & 0o777 == 0o600
    with stack.open(index=True, metacopy=True) as view:
        assert view.read("d/b") == b"data"
        assert view.stat("d/b").st_mode & 0o777 == 0o600
        view.write("c", b"NEW!")
        assert view.read("d/b") == view.read("a") == b"NEW!"
    with stack.open(index=True, metacopy=True) as view:
        assert {view.read(name) for name in LINK_NAMES} == {b"NEW!"}


def test_single_links_and_directories_are_not_indexed(stack: Stack) -> None:
    stack.layers({"f": "f", "d": {}})
    with stack.open(index=True) as view:
        view.chmod("f", 0o600)
        view.chmod("d", 0o700)
        view.unlink("f")
        view.rmdir("d")
    assert stack.index_names() == []


@pytest.mark.parametrize("index", [False, True])
def test_nameless_copy_up_leaves_the_other_name_usable(stack: Stack, index: bool) -> None:
    """The name that a handle was opened by is gone when the file is changed through it."""
    stack.layers({"a": "data"})
    os.link(stack.lowers[0] / "a", stack.lowers[0] / "b")
    with stack.open(index=index) as view:
        ino = view.ino("a")
        with view.opened("a") as handle:
            view.unlink("a")
            complete(view.union.setattr, ino, Changes(mode=0o600), view.caller, handle)
        complete(view.union.setattr, view.ino("b"), Changes(size=2), view.caller, None)
        view.link("b", "c")
        assert (view.ino("b"), view.stat("b").st_mode & 0o777) == (ino, 0o600)
    with stack.open(index=index) as view:
        assert (view.read("b"), view.read("c")) == (b"da", b"da")
        assert view.stat("b").st_mode & 0o777 == 0o600
    assert stack.work_names() == []
