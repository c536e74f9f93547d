"""Bookkeeping: what is known, what is forgotten, and which descriptors stay open."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Callable

import pytest

from tests.overlay.rig import ROOT, Stack, View, descriptors, leaked, steps
from tests.overlay.trees import Tree, directory
from unionfs.overlay.inode import ROOT_INO
from unionfs.overlay.wait import complete

TREE: Tree = {
    "d": {"a": "a", "b": {"c": {"f": "f"}}},
    "e": {"x": "x", "y": "y"},
    "f": "f",
    "g": "g",
}

ACTS: dict[str, Callable[[View], object]] = {
    "lookups": lambda view: [view.ino(path) for path in ("d/b/c/f", "e/x", "f")],
    "tree": lambda view: view.tree(),
    "misses": lambda view: [view.exists(path) for path in ("none", "d/none")],
    "copy-up": lambda view: view.write("d/b/c/f", b"F"),
    "create": lambda view: view.create("d/b/new"),
    "mkdir": lambda view: view.mkdir("d/new"),
    "symlink": lambda view: view.symlink("x", "d/new"),
    "link": lambda view: view.link("f", "d/new"),
    "unlink": lambda view: view.unlink("d/b/c/f"),
    "unlink of a known link": steps(lambda view: view.link("f", "d/new"), lambda view: view.unlink("f")),
    "rmdir": steps(lambda view: view.unlink("d/b/c/f"), lambda view: view.rmdir("d/b/c")),
    "rename": lambda view: view.rename("f", "d/f"),
    "rename over": lambda view: view.rename("f", "g"),
    "rename of a directory": lambda view: view.rename("d", "e/d"),
    "rename over a directory": steps(lambda view: view.mkdir("n"), lambda view: view.rename("d", "n")),
    "exchange": lambda view: view.rename("d", "f", 2),
    "exchange of directories": lambda view: view.rename("d/b", "e", 2),
    "failures": steps(
        lambda view: _fails(view.rmdir, "d"),
        lambda view: _fails(view.mkdir, "d"),
        lambda view: _fails(view.unlink, "d"),
    ),
}


def _fails(act: Callable[[str], object], path: str) -> None:
    with pytest.raises(OSError):
        act(path)


@pytest.mark.parametrize("order", ["as known", "reversed", "shuffled"])
@pytest.mark.parametrize("act", ACTS)
def test_table_is_empty_when_all_is_forgotten(stack: Stack, act: str, order: str) -> None:
    stack.layers(TREE, {"d": {"low": ""}, "e": {}})
    with stack.open() as view:
        ACTS[act](view)
        numbers = list(view.known.items())
        if order == "reversed":
            numbers.reverse()
        elif order == "shuffled":
            random.Random(1).shuffle(numbers)
        for ino, count in numbers:
            for _ in range(count):
                view.union.inode(ino)
                view.union.forget(ino, 1)
        view.known.clear()
        assert view.union.stats()["inodes"] == 1
        assert view.union.fs.root.children == {}
        view.tree()
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


def test_counts_are_kept_exactly(stack: Stack) -> None:
    stack.layers({"f": "f"})
    with stack.open() as view:
        union = view.union
        for _ in range(3):
            union.lookup(ROOT_INO, b"f")
        ino = view.stat("f").st_ino
        view.forget_all()
        union.forget(ino, 2)
        assert union.getattr(ino)
        union.forget(ino, 1)
        with pytest.raises(OSError) as failure:
            union.getattr(ino)
        assert failure.value.errno == errno.ESTALE


def test_forget_never_raises(stack: Stack) -> None:
    stack.layers({"f": "f"})
    with stack.open() as view:
        for ino, count in ((999_999, 1), (ROOT_INO, 1), (ROOT_INO, 1 << 40), (0, 1)):
            view.union.forget(ino, count)
        ino = view.ino("f")
        view.known.clear()
        view.union.forget(ino, 100)
        assert view.read("f") == b"f"


def test_parent_lives_as_long_as_a_child_is_known(stack: Stack) -> None:
    stack.layers({"a": {"b": {"f": "f"}}})
    with stack.open() as view:
        ino = view.ino("a/b/f")
        for number in list(view.known):
            if number != ino:
                view.union.forget(number, view.known.pop(number))
        assert view.union.stats()["inodes"] == 4
        view.union.forget(ino, view.known.pop(ino))
        assert view.union.stats()["inodes"] == 1


def test_dot_and_dot_dot(stack: Stack) -> None:
    """Exported filesystems look these up (FUSE_EXPORT_SUPPORT)."""
    stack.layers({"a": {"b": {}}})
    with stack.open() as view:
        a, b = view.ino("a"), view.ino("a/b")
        found = [view.union.lookup(*pair) for pair in ((b, b"."), (b, b".."), (a, b".."), (ROOT_INO, b".."))]
        numbers = []
        for entry in found:
            assert entry is not None
            numbers.append(entry[0].ino)
            view.known[entry[0].ino] += 1
        assert numbers == [b, a, ROOT_INO, ROOT_INO]
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


@pytest.mark.parametrize("name", [b".", b".."])
def test_stale_numbers(stack: Stack, name: bytes) -> None:
    stack.layers({"d": {}})
    with stack.open() as view:
        for act in (
            lambda: view.union.lookup(12345, name),
            lambda: view.union.getattr(12345),
            lambda: view.union.open_dir(12345),
            lambda: view.union.open_file(12345, os.O_RDONLY, ROOT),
            lambda: view.union.unlink(12345, b"x"),
        ):
            with pytest.raises(OSError) as failure:
                act()
            assert failure.value.errno == errno.ESTALE


def test_close_lets_go_of_everything(stack: Stack) -> None:
    """Also of objects without a name that somebody still knows."""
    stack.layers({"f": "f", "low": {}, "d": {"e": {}}}, upper={"up": "up", "dir": {}, "d": {"e": {}}})
    before = descriptors()
    view = stack.open()
    for name in ("f", "up"):
        view.write(name, b"x")
        view.unlink(name)
    for name in ("low", "dir", "d/e"):
        view.ino(name)
        view.rmdir(name)
    nameless = [view.union.inode(ino) for ino in view.known]
    view.union.close()
    left = descriptors()
    view.known.clear()
    for inode in nameless:  # so that a failure here is not one of the next test, too
        view.union.forget(inode.ino, inode.nlookup)
    assert left == before


def test_operations_leak_no_descriptors(stack: Stack) -> None:
    """The same work, done over and over, on a union that has everything open that it keeps."""
    stack.layers(TREE, {"d": {"low": ""}})

    def work(view: View) -> None:
        view.tree()
        view.create("n", b"1")
        view.write("n", b"2")
        view.rename("n", "m")
        view.link("m", "k")
        view.unlink("m")
        view.unlink("k")
        view.mkdir("dir")
        view.rmdir("dir")
        view.setxattr("d", "user.a", b"1")
        view.removexattr("d", "user.a")
        _fails(view.mkdir, "d")
        _fails(view.rmdir, "d")
        view.change("d/a", size=1)
        with view.opened("d/a", os.O_RDWR):
            view.union.syncfs()
        view.forget_all()

    with stack.open() as view:
        work(view)
        work(view)
        before = descriptors()
        for _ in range(5):
            work(view)
        assert leaked(before) == []


def test_few_descriptors_are_enough(stack: Stack) -> None:
    """With a limit of four open directories everything still works, and the limit is kept."""
    deep: Tree = {"leaf": "leaf"}
    for level in range(12):
        deep = {f"l{level}": deep, f"f{level}": str(level)}
    wide: Tree = {f"w{i}": {"f": str(i), "s": {"t": "t"}} for i in range(30)}
    stack.layers({**deep, **wide}, {**wide})
    path = "/".join(f"l{level}" for level in reversed(range(12)))
    with stack.open() as view:
        fds = view.union.fs.dirfds
        fds._limit = 4
        assert view.read(f"{path}/leaf") == b"leaf"
        view.write(f"{path}/leaf", b"LEAF")
        for i in range(30):
            assert view.read(f"w{i}/f") == str(i).encode()
            view.write(f"w{i}/s/t", b"T")
            view.rename(f"w{i}/s", f"w{i}/S")
            view.rename(f"w{i}", f"v{i}")
            fds.trim()
            assert len(fds) <= 4
        for i in range(30):
            assert view.read(f"v{i}/S/t") == b"T"
            view.unlink(f"v{i}/S/t")
            view.rmdir(f"v{i}/S")
        assert view.read(f"{path}/leaf") == b"LEAF"
        tree = view.tree()
        # Known directories without a descriptor are opened again by their names.
        fds.close_all()
        assert len(fds) == 0
        assert view.tree() == tree
    with stack.open() as view:
        assert view.tree() == tree


def test_limit_follows_the_process_limit(stack: Stack) -> None:
    stack.layers({"d": {}})
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with stack.open() as view:
        assert 0 < view.union.fs.dirfds._limit <= soft // 4


def test_a_hundred_layers(stack: Stack) -> None:
    stack.layers(*({"d": {f"f{i}": str(i), "all": str(i)}} for i in range(120)), upper={"d": directory({})})
    with stack.open() as view:
        assert len(view.ls("d")) == 121
        assert view.read("d/all") == b"0"
        for i in range(120):
            assert view.read(f"d/f{i}") == str(i).encode()
        view.unlink("d/all")
        assert not view.exists("d/all")
        view.forget_all()
        assert view.union.stats() | {"copy_ups": 0} == {
            "copy_ups": 0,
            "inodes": 1,
            "open_files": 0,
            "layers": 121,
            "directory_descriptors": view.union.stats()["directory_descriptors"],
        }


def test_wrong_types(stack: Stack) -> None:
    stack.layers({"d": {}, "f": "f"})
    with stack.open() as view:
        with pytest.raises(IsADirectoryError):
            view.open("d")
        with pytest.raises(NotADirectoryError):
            view.union.open_dir(view.ino("f"))
        with pytest.raises(IsADirectoryError):
            view.change("d", size=0)
        with pytest.raises(OSError) as failure:
            view.readlink("f")
        assert failure.value.errno == errno.EINVAL
        with pytest.raises(OSError) as failure:
            view.readlink("d")
        assert failure.value.errno == errno.EINVAL
        with pytest.raises(NotADirectoryError):
            complete(view.union.mkdir, view.ino("f"), b"x", 0o755, ROOT)


def test_directories_that_nobody_knows_keep_no_descriptor(stack: Stack) -> None:
    """A metacopy's redirect leads through directories of its own, which go with it."""
    names = [f"f{i}" for i in range(40)]
    stack.layers({"a": {"b": dict.fromkeys(names, "data")}, "c": {}})
    with stack.open(metacopy=True) as view:
        for name in names:
            view.chmod(f"a/b/{name}", 0o600)
            view.rename(f"a/b/{name}", f"c/{name}")
    with stack.open(metacopy=True) as view:
        view.tree()
        view.forget_all()
        assert len(view.union.fs.dirfds) <= 4
