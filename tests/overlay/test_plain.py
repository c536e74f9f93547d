"""Listings without lookups: the same names, numbers and types as by looking everything up."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View, steps
from tests.overlay.test_order import memory
from tests.overlay.trees import WHITEOUT, Tree, directory, file, node, symlink
from tests.support.mounts import loop_fs
from unionfs.overlay import iterate, readdir
from unionfs.overlay.wait import complete

BELOW: Tree = {
    "both": {"one": "1", "deep": {"x": "x"}},
    "only": {"two": "2", "link": symlink("two"), "fifo": node(stat.S_IFIFO), "null": node(stat.S_IFCHR, 259)},
    "copied": "data",
    "gone": "g",
    "covered": "c",
    "file": "f",
    "moved": {"inside": "i", "more": {"y": "y"}},
    ".wh.mark": "",
}
ABOVE: Tree = {
    "both": {"three": "3", "deep": {"z": "z"}},
    "covered": directory({"in": ""}),
    "mark": "",
    "empty": {},
    "w": WHITEOUT,
}


def listing(view: View, path: str, *, chunk: int = 1000) -> dict[str, tuple[int, int]]:
    """A plain listing, read in pieces: name to number and type."""
    handle = view.union.open_dir(view.ino(path))
    found: dict[str, tuple[int, int]] = {}
    offset = after = 0
    try:
        while True:
            read = 0
            for name, number, kind, cookie in complete(view.union.read_dir_plain, handle, offset):
                assert os.fsdecode(name) not in found
                found[os.fsdecode(name)] = number, kind
                after = cookie
                read += 1
                if read == chunk:
                    break
            if read == 0:
                return found
            assert after > offset
            offset = after
    finally:
        view.union.release_dir(handle)


def check(view: View, path: str = "", *, chunk: int = 1000) -> None:
    """Compare with what lookups say, here and below; nothing is known of *path* when it is listed."""
    told = listing(view, path, chunk=chunk)
    assert told.pop(".")[0] == view.ino(path)
    assert told.pop("..")[1] == stat.S_IFDIR >> 12
    assert set(told) == set(view.ls(path))
    for name, (number, kind) in told.items():
        below = f"{path}/{name}" if path else name
        inode, st = view.union.getattr(view.ino(below))
        assert (number, kind) == (inode.ino, st.st_mode >> 12), below
        if stat.S_ISDIR(st.st_mode):
            check(view, below, chunk=chunk)


CHANGES: dict[str, Callable[[View], None]] = {
    "nothing": lambda view: None,
    "copy-up": steps(lambda v: v.chmod("copied", 0o600), lambda v: v.chmod("only/two", 0o600)),
    "directories up": steps(lambda v: v.chmod("only", 0o700), lambda v: v.chmod("both/deep", 0o700)),
    "new": steps(
        lambda v: v.mkdir("n"),
        lambda v: v.create("n/f"),
        lambda v: v.symlink("f", "n/s"),
        lambda v: v.mkdir("n/d"),
        lambda v: v.mknod("n/p", stat.S_IFIFO | 0o600),
        lambda v: v.create("both/new"),
    ),
    "moved": steps(lambda v: v.rename("moved", "both/m"), lambda v: v.rename("only", "o")),
    "moved into a new one": steps(
        lambda v: v.mkdir("n"),
        lambda v: v.rename("copied", "n/c"),
        lambda v: v.rename("moved", "n/m"),
        lambda v: v.link("file", "n/l"),
    ),
    "deleted": steps(lambda v: v.unlink("gone"), lambda v: v.unlink("only/two"), lambda v: v.rmdir("empty")),
    "replaced": steps(lambda v: v.unlink("gone"), lambda v: v.mkdir("gone"), lambda v: v.create("gone/f")),
    "over another": steps(lambda v: v.rename("file", "copied"), lambda v: v.rename("both/one", "gone")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", [{}, {"metacopy": True, "index": True}], ids=["plain", "metacopy,index"])
@pytest.mark.parametrize("remounted", [False, True], ids=["known", "remounted"])
def test_same_as_by_lookups(either: Stack, change: str, options: dict[str, bool], remounted: bool) -> None:
    stack = either.layers(ABOVE, BELOW, upper={"both": {"up": "u"}, "mine": {"f": "", "d": {}}})
    os.link(stack.lowers[1] / "file", stack.lowers[1] / "both/second")
    with stack.open(**options) as view:
        CHANGES[change](view)
        if not remounted:
            view.forget_all()
            check(view)
            check(view, chunk=2)
    with stack.open(**options) as view:
        check(view, chunk=3)


def test_layers_on_other_filesystems(stack: Stack) -> None:
    with loop_fs("tmpfs") as other:
        (other / "low").mkdir()
        stack.layers(ABOVE, BELOW, upper={"mine": {"f": ""}})
        stack.lowers.append(other / "low")
        (other / "low" / "only").mkdir()
        for name in ("t1", "t2"):
            (other / "low" / name).mkdir()
            (other / "low" / name / "f").touch()
            (other / "low" / "only" / name).touch()
        with stack.open() as view:
            check(view)


def test_what_lies_in_lowers_is_not_looked_up(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"f{number}" for number in range(50)]
    stack.layers({"d": {"above": ""}}, {"d": {**dict.fromkeys(names, ""), "s": symlink("x"), "dir": {}}})
    with stack.open() as view:
        view.mkdir("new")
        for name in names:
            view.create(f"new/{name}")
        view.forget_all()
        view.ino("d")
        view.ino("new")
        looked: list[bytes] = []
        monkeypatch.setattr(iterate, "lookup", lambda fs, parent, name: looked.append(name))
        inodes = view.union.stats()["inodes"]
        assert len(listing(view, "d")) == 50 + 3 + 2
        assert len(listing(view, "new")) == 50 + 2
        assert looked == []
        assert view.union.stats()["inodes"] == inodes


def test_nothing_stays_of_what_was_looked_up(stack: Stack) -> None:
    stack.layers({"f": "f", "g": "g"})
    with stack.open() as view:
        view.chmod("f", 0o600)
        view.forget_all()
        inodes = view.union.stats()["inodes"]
        assert set(listing(view, "")) == {".", "..", "f", "g"}
        assert view.union.stats()["inodes"] == inodes


def test_two_objects_with_one_number(stack: Stack) -> None:
    """Somebody has removed a whiteout by hand: the lower file shows again beside its copy, which is known."""
    stack.layers({"d": {"f": "f", "g": "g"}})
    with stack.open() as view:
        view.chmod("d/f", 0o600)
        view.rename("d/f", "d/h")
    (stack.upper / "d/f").unlink()
    with stack.open() as view:
        told = listing(view, "d")
        assert told["f"][0] == told["h"][0], "nobody is known yet"
        assert view.ino("d/h") == told["h"][0]
        told = listing(view, "d")
        assert told["f"][0] != told["h"][0] == view.ino("d/h")


def test_a_rewind_looks_again(stack: Stack) -> None:
    stack.layers({"d": {"f": "f", "g": "g"}})
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        numbers = []
        for _ in range(2):
            told = {name: number for name, number, *_ in complete(view.union.read_dir_plain, handle, 0)}
            numbers.append(told[b"g"])
            if view.exists("d/f"):
                view.rename("d/f", "d/g")
            view.forget_all()
        view.union.release_dir(handle)
        assert numbers[0] != numbers[1] == view.ino("d/g")


def test_a_name_whose_lookup_fails(stack: Stack) -> None:
    stack.layers({}, upper={"broken": file("", size=10, metacopy=""), "f": ""})
    os.setxattr(stack.upper, "trusted.overlay.impure", b"y")
    with stack.open() as view:
        told = listing(view, "")
        assert told["broken"][1] == 0
        assert told["broken"][0] not in (told["f"][0], 0, view.ino(""))


def test_a_large_directory_waits(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readdir, "_SLOW_SIZE", 1)
    stack.layers(ABOVE, BELOW)
    with stack.open() as view:
        check(view, chunk=2)


def test_a_name_that_goes_meanwhile(stack: Stack) -> None:
    stack.layers({"d": {"above": ""}}, {"d": dict.fromkeys("abcdef", "")})
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        first = list(islice(complete(view.union.read_dir_plain, handle, 0), 4))
        seen = {name for name, *_ in first}
        left = next(name for name in "abcdef" if name.encode() not in seen)
        view.unlink(f"d/{left}")
        rest = complete(view.union.read_dir_plain, handle, first[-1][3])
        assert seen | {name for name, *_ in rest} >= {name.encode() for name in "abcdef" if name != left}
        again = {name for name, *_ in complete(view.union.read_dir_plain, handle, 0)}
        assert left.encode() not in again
        view.union.release_dir(handle)


def test_a_subvolume_of_btrfs() -> None:
    with memory("btrfs") as room, loop_fs("btrfs", directory=room) as where:
        base = Path(where) / "base"
        base.mkdir()
        stack = Stack(base).layers({"d": {"f": ""}})
        command = ["btrfs", "-q", "subvolume", "create", str(stack.lowers[0] / "d/sub")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (stack.lowers[0] / "d/sub/x").touch()
        with stack.open() as view:
            check(view)
