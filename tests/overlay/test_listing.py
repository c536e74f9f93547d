"""Listings: merged, each name once, stable while names come and go, cookies, rewind."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import WHITEOUT, Tree, file, node, symlink
from tests.support.mounts import loop_fs
from unionfs.linux import syscalls
from unionfs.overlay import readdir
from unionfs.overlay.listing import DirHandle
from unionfs.overlay.wait import Wait, complete


def test_merged_listing_has_each_name_once(stack: Stack) -> None:
    stack.layers(
        {"d": {"a": "1", "b": "1", "gone": WHITEOUT, "kind": {"x": ""}}},
        {"d": {"a": "2", "c": "2", "gone": "2", "kind": "a file"}},
        {"d": {"a": "3", "c": {"under": ""}, "e": symlink("a")}},
        upper={"d": {"a": "0", "up": "0", "c": WHITEOUT}},
    )
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        names = [name for name, _, _ in view.read_dir(handle, 0)]
        view.union.release_dir(handle)
        assert names[:2] == [".", ".."]
        assert sorted(names[2:]) == ["a", "b", "e", "kind", "up"]


@pytest.mark.parametrize("where", ["", "d", "d/sub"])
def test_d_ino_is_st_ino(stack: Stack, where: str) -> None:
    tree: Tree = {"f": "f", "l": symlink("f"), "p": node(stat.S_IFIFO | 0o600), "sub": {"s": ""}}
    stack.layers({"d": tree, "f": "f"}, {"d": tree, "g": ""}, upper={"d": {"f": "up", "u": "u"}})
    with stack.open() as view:
        before = view.entries(where)
        for name, number in before.items():
            if name not in (".", ".."):
                assert view.ino(f"{where}/{name}" if where else name) == number
        assert before["."] == view.ino(where)
        assert before[".."] == view.ino(where.rpartition("/")[0])
        for path in ("d/f", "d/sub/s", "f"):
            view.chmod(path, 0o600)
        assert view.entries(where) == before
        view.forget_all()
        assert view.entries(where) == before
    with stack.open() as view:
        assert view.entries(where) == before


LAYERS: dict[str, tuple[Tree, list[Tree]]] = {
    "pure upper": ({"d": {f"n{i:03}": "" for i in range(100)}}, [{"pad": ""}]),
    "pure lower": ({}, [{"d": {f"n{i:03}": "" for i in range(100)}}]),
    "merged": (
        {"d": {f"n{i:03}": "" for i in range(0, 100, 2)}},
        [{"d": {f"n{i:03}": "" for i in range(0, 100, 3)}}, {"d": {f"n{i:03}": "" for i in range(100)}}],
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_cookies(stack: Stack, kind: str, step: int) -> None:
    """Read in pieces, go back to any cookie (telldir, seekdir), rewind."""
    upper, lowers = LAYERS[kind]
    stack.layers(*lowers, upper=upper)
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        all_of_them = pieces(view, handle, step)
        assert sorted(name for name, _, _ in all_of_them) == sorted(
            [".", "..", *(f"n{i:03}" for i in range(100))]
        )
        cookies = [cookie for _, _, cookie in all_of_them]
        assert len(set(cookies)) == len(cookies)
        assert 0 not in cookies
        for place in (0, 1, 2, 50, 101):
            again = view.read_dir(handle, cookies[place])
            assert again == all_of_them[place + 1 :]
        view.create("d/new")
        assert [n for n, _, _ in view.read_dir(handle, cookies[50])] == [n for n, _, _ in all_of_them[51:]]
        assert "new" in [name for name, _, _ in view.read_dir(handle, 0)]
        view.union.release_dir(handle)
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


def pieces(view: View, handle: DirHandle, step: int) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    at = 0
    while True:
        more = view.read_dir(handle, at, step)
        if not more:
            return found
        found += more
        at = more[-1][2]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("step", [1, 10])
def test_removing_everything_while_listing(stack: Stack, kind: str, step: int) -> None:
    """What `rm -rf` does: every name is met once although those before it are gone."""
    upper, lowers = LAYERS[kind]
    stack.layers(*lowers, upper=upper)
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        met: list[str] = []
        at = 0
        while more := view.read_dir(handle, at, step):
            at = more[-1][2]
            for name, _, _ in more:
                if name not in (".", ".."):
                    met.append(name)
                    view.unlink(f"d/{name}")
        view.union.release_dir(handle)
        assert sorted(met) == [f"n{i:03}" for i in range(100)]
        assert view.ls("d") == []
        view.rmdir("d")
        view.forget_all()
    with stack.open() as view:
        assert not view.exists("d")


@pytest.mark.parametrize("kind", LAYERS)
def test_names_that_stay_are_shown_once_whatever_else_happens(stack: Stack, kind: str) -> None:
    upper, lowers = LAYERS[kind]
    stack.layers(*lowers, upper=upper)
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        met: list[str] = []
        at = turn = 0
        while more := view.read_dir(handle, at, 5):
            at = more[-1][2]
            met += [name for name, _, _ in more]
            view.create(f"d/new{turn}")
            if turn % 3 == 0:
                view.chmod("d/n099", 0o600 + turn)
            if turn == 5:
                view.rename("d/n001", "d/renamed")
                view.unlink("d/n098")
            turn += 1
        view.union.release_dir(handle)
        stays = {f"n{i:03}" for i in range(100)} - {"n001", "n098"}
        assert stays <= set(met)
        assert len(met) == len(set(met))


def test_two_handles_have_their_own_snapshots(stack: Stack) -> None:
    stack.layers({"d": {"a": "", "b": ""}}, {"d": {"c": ""}})
    with stack.open() as view:
        one = view.union.open_dir(view.ino("d"))
        first = view.read_dir(one, 0)
        view.create("d/new")
        two = view.union.open_dir(view.ino("d"))
        assert "new" in [name for name, _, _ in view.read_dir(two, 0)]
        assert view.read_dir(one, first[1][2]) == first[2:]
        view.union.release_dir(one)
        view.union.release_dir(two)


def test_listing_does_not_keep_entries_that_the_kernel_did_not_take(stack: Stack) -> None:
    stack.layers({"d": {f"n{i}": "" for i in range(50)}}, {"d": {"m": ""}})
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        view.read_dir(handle, 0, 10)
        view.union.release_dir(handle)
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


# --- large directories, which a worker lists -------------------------------------------------------


@pytest.fixture
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readdir, "_SLOW_SIZE", 1)


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("kind", LAYERS)
def test_large_directory_is_listed_by_a_task(stack: Stack, kind: str) -> None:
    upper, lowers = LAYERS[kind]
    stack.layers(*lowers, upper=upper)
    with stack.open() as view:
        d = view.ino("d")
        handle = view.union.open_dir(d)
        with pytest.raises(Wait) as wait:
            view.union.read_dir(handle, 0)
        task = wait.value.task
        with pytest.raises(Wait) as again:
            view.union.read_dir(handle, 0)
        assert again.value.task is task
        task.run()
        task.finish(None)
        names = [name for name, _, _ in list_now(view, handle)]
        assert len(names) == 102
        view.union.release_dir(handle)
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


def list_now(view: View, handle: DirHandle) -> list[tuple[str, int, int]]:
    """A listing that must not need to wait any more."""
    found = []
    for name, entry, cookie in view.union.read_dir(handle, 0):
        assert entry is not None
        found.append((os.fsdecode(name), entry[0].ino, cookie))
        view.union.drop_if_unused(entry[0])
    return found


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("error", [False, True])
def test_failed_listing_task(stack: Stack, error: bool) -> None:
    stack.layers({"d": {"a": ""}}, {"d": {"b": ""}})
    with stack.open() as view:
        d = view.ino("d")
        with pytest.raises(Wait) as wait:
            view.union.lookup(d, b"a")
        task = wait.value.task
        if not error:
            task.run()
        task.finish(OSError(5, "input/output error"))
        assert view.inode("d").pending is None
        assert view.ls("d") == ["a", "b"]
        view.forget_all()
        assert view.union.stats()["inodes"] == 1


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("ran", [False, True], ids=["before it ran", "after it ran"])
@pytest.mark.parametrize("volatile", [False, True])
def test_copy_up_that_ends_while_the_directory_is_listed(stack: Stack, ran: bool, volatile: bool) -> None:
    """The only change that can come into a directory of which the cache is being made."""
    stack.layers({"d": {"f": "x" * 300_000, "other": "o"}}, {"d": {"b": "b"}})
    with stack.open(volatile=volatile) as view:
        # The task of the copy-up exists before the cache is wanted: a lookup by number needs no cache.
        f = view.ino("d/f")
        d = view.inode("d")
        assert hasattr(d, "cache")
        with pytest.raises(Wait) as wait:
            view.union.open_file(f, os.O_WRONLY, view.caller)
        copy = wait.value.task
        d.cache = None
        handle = view.union.open_dir(d.ino)
        with pytest.raises(Wait) as wait:
            view.union.read_dir(handle, 0)
        listing = wait.value.task
        copy.run()
        if ran:
            listing.run()
        copy.finish(None)
        if not ran:
            listing.run()
        listing.finish(None)
        assert {name for name, _, _ in list_now(view, handle)} == {".", "..", "f", "other", "b"}
        view.union.release_dir(handle)
        view.unlink("d/f")
        assert view.ls("d") == ["b", "other"]
        assert not view.exists("d/f")


@pytest.mark.usefixtures("_everything_is_large")
@pytest.mark.parametrize("change", ["create", "unlink", "rename", "rmdir", "mkdir"])
@pytest.mark.parametrize("kind", ["pure upper", "merged"])
def test_change_while_a_large_directory_is_being_listed(stack: Stack, kind: str, change: str) -> None:
    upper, lowers = LAYERS[kind]
    stack.layers(*lowers, upper=upper)
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        with pytest.raises(Wait) as wait:
            view.union.read_dir(handle, 0)
        listing = wait.value.task
        d = view.ino("d")
        union, root = view.union, view.caller

        def act() -> None:
            if change == "create":
                view.union.release(union.create(d, b"new", 0o644, os.O_RDWR, root)[2])
            elif change == "mkdir":
                union.mkdir(d, b"new", 0o755, root)
            elif change == "unlink":
                union.unlink(d, b"n050")
            elif change == "rename":
                union.rename(d, b"n050", d, b"new", 0)
            else:
                with pytest.raises(OSError):
                    union.rmdir(1, b"d")

        waited = False
        try:
            act()
        except Wait as wait_too:
            waited = wait_too.task is listing
        listing.run()
        listing.finish(None)
        if waited:
            complete(act)
        view.union.release_dir(handle)
        wanted = {f"n{i:03}" for i in range(100)}
        if change in ("unlink", "rename"):
            wanted.discard("n050")
        if change in ("create", "mkdir", "rename"):
            wanted.add("new")
        assert set(view.ls("d")) == wanted
        for name in ("n050", "new"):
            assert view.exists(f"d/{name}") == (name in wanted)


def test_truly_large_directory(stack: Stack) -> None:
    """With the real threshold, on a filesystem whose directories' sizes tell: tens of thousands of names."""
    stack.layers({"d": {}}, {"d": {"low": ""}})
    d = stack.lowers[0] / "d"
    first = d / "0"
    first.touch()
    for i in range(1, 12_000):
        os.link(first, d / f"a-rather-long-name-{i}")
    if d.stat().st_size < 256 * 1024:
        pytest.skip("this filesystem's directories do not grow with their names")
    with stack.open() as view:
        handle = view.union.open_dir(view.ino("d"))
        with pytest.raises(Wait):
            view.union.read_dir(handle, 0)
        assert len(view.read_dir(handle, 0)) == 12_003
        view.union.release_dir(handle)


def test_listing_shows_a_name_whose_lookup_fails(stack: Stack) -> None:
    stack.layers({"broken": file(size=9, metacopy=""), "fine": ""}, {"pad": ""})
    with stack.open() as view:
        assert view.ls() == ["broken", "fine", "pad"]
        assert view.entries()["broken"] == 0


def test_directory_cache_is_the_same_on_every_filesystem(stack: Stack, base: Path) -> None:
    """Layers on filesystems that tell no d_type or sort differently: tmpfs here."""
    with loop_fs("tmpfs", directory=base) as other:
        stack.layers({"d": {f"n{i}": "" for i in range(20)}})
        (other / "d").mkdir()
        for i in range(10, 30):
            (other / "d" / f"n{i}").write_text("other")
        stack.lowers.append(other)
        with stack.open() as view:
            assert view.ls("d") == sorted(f"n{i}" for i in range(30))
            assert view.read("d/n15") == b""
            assert view.read("d/n25") == b"other"
            numbers = view.entries("d")
            assert len(set(numbers.values())) == len(numbers)


@pytest.mark.parametrize("merged", [False, True])
def test_a_failed_listing_costs_no_descriptor(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, merged: bool
) -> None:
    """What leaks is found by the fixture that counts descriptors."""
    stack.layers({"d": {"f": ""}}, *([{"d": {"g": ""}}] if merged else []))
    with stack.open() as view:
        ino = view.ino("d")
        with monkeypatch.context() as patch:
            patch.setattr(readdir, "scan", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
            handle = view.union.open_dir(ino)
            with pytest.raises(OSError, match="bad disk"):
                complete(view.union.read_dir, handle, 0)
            view.union.release_dir(handle)
        assert sorted(view.tree("d")) == (["d/f", "d/g"] if merged else ["d/f"])


@pytest.mark.parametrize("kind", ["pure", "merged"])
@pytest.mark.parametrize("timeout", [None, 0.0])
@pytest.mark.parametrize("private", [True, False])
def test_listing_leaves_the_access_time_of_a_lower(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, private: bool, timeout: float | None, kind: str
) -> None:
    """Without private mounts of the lowers that are noatime, too: an ordinary user's daemon has none."""

    def refused(path: str, *, read_only: bool) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not private:
        monkeypatch.setattr(syscalls, "clone_tree", refused)
    stack.layers({"d": {"a": "a", "e": {}}}, {"d": {"b": "b"}}, upper={"d": {}} if kind == "merged" else {})
    stack.timeout = timeout
    places = [lower / "d" for lower in stack.lowers]
    for place in places:
        os.utime(place, (1_000_000_000, 2_000_000_000))
    with stack.open() as view:
        assert view.ls("d") == ["a", "b", "e"]
        assert view.ls("d/e") == []
        assert [place.stat().st_atime for place in places] == [1_000_000_000] * 2
    for place in places:
        os.listdir(place)
        assert place.stat().st_atime != 1_000_000_000, "this filesystem keeps no access times"
