"""Open files go on working after copy-up, unlink, rename and replacement."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.overlay.rig import Stack, View, steps
from tests.overlay.trees import WHITEOUT, Tree, disk
from unionfs.linux import syscalls
from unionfs.overlay.attr import Changes
from unionfs.overlay.wait import complete

PLACES: dict[str, tuple[Tree, Tree]] = {
    "lower": ({}, {"f": "0123456789", "g": "gggg", "d": {}}),
    "upper": ({"f": "0123456789"}, {"g": "gggg", "d": {}}),
    "upper over lower": ({"f": "0123456789"}, {"f": "hidden", "g": "gggg", "d": {}}),
    "upper over whiteout": ({"f": "0123456789"}, {"f": WHITEOUT, "g": "gggg", "d": {}}),
}

Act = Callable[[View], object]
LOSE: dict[str, Act] = {
    "unlink": lambda view: view.unlink("f"),
    "rename": lambda view: view.rename("f", "h"),
    "rename away": lambda view: view.rename("f", "d/f"),
    "replaced by a lower": lambda view: view.rename("g", "f"),
    "replaced by a new": steps(lambda view: view.create("n", b"nnnn"), lambda view: view.rename("n", "f")),
    "unlink, create": steps(lambda view: view.unlink("f"), lambda view: view.create("f", b"other")),
    "unlink, mkdir": steps(lambda view: view.unlink("f"), lambda view: view.mkdir("f")),
    "rename, create": steps(lambda view: view.rename("f", "h"), lambda view: view.create("f", b"other")),
    "link, unlink": steps(lambda view: view.link("f", "d/h"), lambda view: view.unlink("f")),
    "link, unlink both": steps(
        lambda view: view.link("f", "h"), lambda view: view.unlink("f"), lambda view: view.unlink("h")
    ),
}


@pytest.mark.parametrize("lose", LOSE)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["reading", "writing"])
def test_handle_survives_its_name(stack: Stack, place: str, lose: str, flags: int) -> None:
    upper, lower = PLACES[place]
    stack.layers(lower, {"f": "bottom"}, upper=upper)
    with stack.open() as view:
        union, root = view.union, view.caller
        ino = view.ino("f")
        handle = view.open("f", flags)
        if flags == os.O_RDWR:
            handle.write(0, b"W")
        LOSE[lose](view)
        start = b"W" if flags == os.O_RDWR else b"0"
        assert view.read_handle(handle) == start + b"123456789"
        if flags == os.O_RDWR:
            handle.write(9, b"XY")
            assert view.read_handle(handle) == b"W12345678XY"
            union.setattr(ino, Changes(size=4), root, handle)
            assert view.read_handle(handle) == b"W123"
            complete(union.setattr, ino, Changes(size=6), root, None)
            assert view.read_handle(handle) == b"W123\0\0"
            handle.flush()
            fd = union.sync_file(handle)
            assert fd is not None
            os.fsync(fd)
            os.close(fd)
        complete(union.setattr, ino, Changes(mode=0o640, uid=1, gid=2, mtime_ns=77), root, handle)
        complete(union.setxattr, ino, b"user.late", b"1", 0, root)
        inode, st = union.getattr(ino)
        assert inode.ino == ino
        assert (st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_mtime_ns) == (0o640, 1, 2, 77)
        assert union.getxattr(ino, b"user.late") == b"1"
        assert b"user.late" in union.listxattr(ino, root)
        complete(union.removexattr, ino, b"user.late", root)
        again = complete(union.open_file, ino, os.O_WRONLY, root)  # /proc/self/fd/N
        again.write(0, b"Z")
        assert view.read_handle(handle)[:1] == b"Z"
        union.release(again)
        union.release(handle)
        tree = view.tree()
        view.forget_all()
        assert union.stats()["inodes"] == 1
        assert union.stats()["open_files"] == 0
        assert view.tree() == tree
        view.forget_all()
    assert stack.work_names() == []
    with stack.open() as view:
        assert view.tree() == tree


def test_reader_sees_what_a_later_writer_writes(stack: Stack) -> None:
    """POSIX, where a handle is older than the copy-up of its file."""
    stack.layers({"f": "0123456789"})
    with stack.open() as view:
        readers = [view.open("f") for _ in range(3)]
        assert view.read_handle(readers[0]) == b"0123456789"
        view.write("f", b"NEW")
        for reader in readers:
            assert view.read_handle(reader) == b"NEW3456789"
        view.change("f", size=2)
        for reader in readers:
            assert view.read_handle(reader) == b"NE"
            view.union.release(reader)


def test_reader_of_a_metacopy_follows_its_data(stack: Stack) -> None:
    stack.layers({"f": "0123456789"})
    with stack.open(metacopy=True) as view:
        before = view.open("f")
        view.chmod("f", 0o600)
        between = view.open("f")
        assert view.read_handle(before) == view.read_handle(between) == b"0123456789"
        view.write("f", b"NEW")
        assert view.read_handle(before) == view.read_handle(between) == b"NEW3456789"
        view.union.release(before)
        view.union.release(between)


def test_reads_at_and_behind_the_end(stack: Stack) -> None:
    stack.layers({"f": "0123456789", "empty": ""})
    with stack.open() as view:
        with view.opened("f") as handle:
            assert view.read_handle(handle, 8, 100) == b"89"
            assert view.read_handle(handle, 10, 100) == b""
            assert view.read_handle(handle, 1 << 40, 100) == b""
            assert view.read_handle(handle, 2, 3) == b"234"
        with view.opened("empty") as handle:
            assert view.read_handle(handle) == b""
    assert disk(stack.upper) == {}


def test_handle_keeps_its_inode_when_all_is_forgotten(stack: Stack) -> None:
    stack.layers({"d": {"f": "0123456789"}})
    with stack.open() as view:
        handle = view.open("d/f", os.O_RDWR)
        ino = view.ino("d/f")
        view.forget_all()
        assert view.union.stats()["inodes"] == 3
        assert view.ino("d/f") == ino
        view.forget_all()
        view.unlink("d/f")
        view.forget_all()
        handle.write(0, b"x")
        assert view.read_handle(handle) == b"x123456789"
        view.union.release(handle)
        assert view.union.stats()["inodes"] == 1


def test_removed_directory_is_still_served(stack: Stack) -> None:
    stack.layers({"low": {}, "merged": {}}, upper={"merged": {}, "up": {}})
    with stack.open() as view:
        for name in ("low", "merged", "up"):
            ino = view.ino(name)
            handle = view.union.open_dir(ino)
            view.rmdir(name)
            assert view.union.getattr(ino)[0].ino == ino
            assert [entry[0] for entry in view.read_dir(handle, 0)] in ([".", ".."], [])
            with pytest.raises(OSError):
                complete(view.union.create, ino, b"x", 0o644, os.O_RDWR, view.caller)
            view.union.release_dir(handle)
        view.forget_all()
        assert view.union.stats()["inodes"] == 1
    assert disk(stack.upper) == {"low": "whiteout", "merged": "whiteout"}
    assert stack.work_names() == []


# --- access times -------------------------------------------------------------------------------------


def test_reading_a_lower_file_leaves_its_access_time_without_a_mount_for_it_too(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user's daemon has no private mounts of the lowers that are noatime."""

    def refused(path: str, *, read_only: bool) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(syscalls, "clone_tree", refused)
    stack.layers({"f": "0123456789"})
    path = stack.lowers[0] / "f"
    os.utime(path, (1_000_000_000, 1_000_000_001))
    with stack.open() as view:
        assert view.read("f") == b"0123456789"
        assert path.stat().st_atime == 1_000_000_000
        view.write("f", b"W")
        assert path.stat().st_atime == 1_000_000_000


# --- one descriptor each ------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["reading", "writing"])
@pytest.mark.parametrize("place", ["upper", "upper over lower"])
def test_an_open_unlinked_file_costs_one_descriptor(stack: Stack, place: str, flags: int) -> None:
    """Until the last handle is closed, and one after it while the inode is known."""
    upper, lower = PLACES[place]
    stack.layers(lower, upper=upper)
    with stack.open() as view:
        union, root = view.union, view.caller
        ino = view.ino("f")
        union.lookup(1, b"f")
        handle = view.open("f", flags)
        other = view.open("f", flags)
        before = descriptors()
        view.unlink("f")
        assert descriptors() == before
        complete(union.setattr, ino, Changes(mode=0o640), root, None)
        assert union.getattr(ino)[1].st_mode & 0o7777 == 0o640
        for each in (handle, other):
            union.release(each)
            assert union.getattr(ino)[1].st_nlink == 0
            again = view.union.open_file(ino, os.O_RDONLY, root)
            assert view.read_handle(again) == b"0123456789"
            union.release(again)
        assert descriptors() == before - 1
        union.forget(ino, 1000)
        assert descriptors() == before - 2


def test_a_lower_reader_lends_nothing(stack: Stack) -> None:
    """What serves the inode must be the upper file, whatever an old reader has open."""
    stack.layers({"f": "0123456789"})
    with stack.open() as view:
        union, root = view.union, view.caller
        ino = view.ino("f")
        union.lookup(1, b"f")
        writer = view.open("f", os.O_RDWR)
        reader = union.open_lower(ino, root)
        writer.write(0, b"W")
        union.release(writer)
        view.unlink("f")
        complete(union.setattr, ino, Changes(size=3), root, None)
        again = union.open_file(ino, os.O_RDONLY, root)
        assert view.read_handle(again) == b"W12"
        assert view.read_handle(reader) == b"0123456789"
        for each in (again, reader):
            union.release(each)


def test_a_file_without_a_name_gets_one_while_its_descriptor_is_lent(stack: Stack) -> None:
    stack.layers({}, upper={"f": "0123456789", "g": "gggg"})
    with stack.open() as view:
        union, root = view.union, view.caller
        inode, _, handle = union.tmpfile(1, 0o644, os.O_RDWR, root)
        handle.write(0, b"tmp")
        union.link(inode.ino, 1, b"named")
        union.release(handle)
        assert view.read("named") == b"tmp"
        view.unlink("named")
        assert union.getattr(inode.ino)[1].st_nlink == 0
