"""Owners that are shown otherwise than they are stored: maps of ids, and squashing. Without a mount.

Invariant 9.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.overlay.owners_rig import MAKE, MAP, MAPPED, NOBODY, lower_tree, named, owner, user
from tests.overlay.rig import Stack
from tests.overlay.trees import file
from unionfs.overlay.attr import Changes
from unionfs.overlay.config import OwnersConfig
from unionfs.overlay.cred import CAP_SYS_ADMIN, Caller
from unionfs.overlay.owners import identity
from unionfs.overlay.owners.idmap import Ids
from unionfs.overlay.wait import complete

# --- what is shown ----------------------------------------------------------------------------------

SHOWN: dict[str, tuple[OwnersConfig, dict[str, tuple[int, int]]]] = {
    "map": (
        MAPPED,
        {
            "root": (1000, 1000),
            "seven": (100006, 100007),
            "out": (NOBODY, NOBODY),
            "d": (100006, 100006),
            "d/in": (100000, NOBODY),
            "link": (100008, 100008),
            "up": (100002, 100003),
            "": (1000, 1000),
        },
    ),
    "only users": (OwnersConfig(uid_map=MAP), {"seven": (100006, 8), "out": (NOBODY, 6000), "": (1000, 0)}),
    "only groups": (OwnersConfig(gid_map=MAP), {"seven": (7, 100007), "out": (5000, NOBODY), "": (0, 1000)}),
    "squash": (
        OwnersConfig(squash_uid=0, squash_gid=0),
        {"seven": (0, 0), "out": (0, 0), "link": (0, 0), "up": (0, 0), "d/in": (0, 0), "": (0, 0)},
    ),
    "squash user": (OwnersConfig(squash_uid=42), {"seven": (42, 8), "out": (42, 6000), "up": (42, 4)}),
    "squash over map": (
        OwnersConfig(uid_map=MAP, gid_map=MAP, squash_gid=5),
        {"seven": (100006, 5), "out": (NOBODY, 5), "up": (100002, 5)},
    ),
}


@pytest.mark.parametrize("case", SHOWN)
def test_every_way_to_ask_shows_the_same(stack: Stack, case: str) -> None:
    """getattr of a fresh inode and of a known one, lookup, statx, listings with attributes."""
    config, expected = SHOWN[case]
    lower_tree(stack)
    with stack.open(owners=config) as view:
        for path, ids in expected.items():
            for _ in range(2):
                entry = view.find(path)
                assert entry is not None
                assert owner(entry[1]) == ids, path
                assert owner(view.stat(path)) == ids, path
                assert owner(view.union.statx(view.ino(path)).stat) == ids, path
            view.forget_all()
        handle = view.union.open_dir(view.ino(""))
        listed = {os.fsdecode(name): entry for name, entry, _ in complete(view.union.read_dir, handle, 0)}
        for name in set(expected) & set(listed):
            entry = listed[name]
            assert entry is not None
            assert owner(entry[1]) == expected[name]
        view.union.release_dir(handle)


def test_all_but_the_owner_is_as_it_is(stack: Stack) -> None:
    lower_tree(stack)
    real = (stack.lowers[0] / "seven").lstat()
    with stack.open(owners=MAPPED) as view:
        shown = view.stat("seven")
    for name in dir(real):
        if name.startswith("st_") and name not in ("st_uid", "st_gid", "st_dev", "st_atime", "st_atime_ns"):
            assert getattr(shown, name) == getattr(real, name), name


def test_a_merged_tree_is_shown_so_too(stack: Stack) -> None:
    """A directory of two layers is upper's, and what is in it whose layer it comes from."""
    stack.layers({"d": {"low": "l"}}, upper={"d": {"high": "h"}})
    os.chown(stack.lowers[0] / "d" / "low", 2, 2)
    os.chown(stack.upper / "d", 3, 3)
    os.chown(stack.upper / "d" / "high", 4, 4)
    with stack.open(owners=MAPPED) as view:
        assert owner(view.stat("d")) == (100002, 100002)
        assert owner(view.stat("d/low")) == (100001, 100001)
        assert owner(view.stat("d/high")) == (100003, 100003)


# --- what is stored ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True], ids=["new", "over a whiteout"])
@pytest.mark.parametrize("what", MAKE)
def test_new_objects_are_stored_as_the_callers(stack: Stack, what: str, gone: bool) -> None:
    stack.layers({"x": "lower"} if gone else {})
    with stack.open(owners=MAPPED) as view:
        if gone:
            view.unlink("x")
        MAKE[what](view, "x", user(100006, 100007))
        assert owner(view.stat("x")) == (100006, 100007)
        view.forget_all()
        assert owner(view.stat("x")) == (100006, 100007)
    assert owner((stack.upper / "x").lstat()) == (7, 8)


@pytest.mark.parametrize(
    ("who", "stored"),
    [(user(0), (NOBODY, NOBODY)), (user(1000, 0), (0, NOBODY)), (user(1001, 1000), (NOBODY, 0))],
    ids=["both", "group", "user"],
)
@pytest.mark.parametrize("what", MAKE)
def test_who_is_not_in_the_map_makes_what_is_nobodys(
    stack: Stack, what: str, who: Caller, stored: tuple[int, int]
) -> None:
    """As with fuse-overlayfs: podman makes /etc/mtab in containers whose map has no id of its own."""
    stack.layers({"d": {}})
    with stack.open(owners=MAPPED) as view:
        MAKE[what](view, "d/x", who)
        assert owner(view.stat("d/x")) == (
            NOBODY if stored[0] == NOBODY else 1000,
            NOBODY if stored[1] == NOBODY else 1000,
        )
    assert owner((stack.upper / "d" / "x").lstat()) == stored


@pytest.mark.parametrize("what", MAKE)
def test_ids_that_our_namespace_lacks_make_nothing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """setfsuid(2) would not say so, and the object would be ours."""
    single = Ids(((0, 0, 1),), "uid")
    monkeypatch.setattr(identity, "own_ids", lambda kind: single)
    stack.layers({"d": {}})
    with stack.open(owners=OwnersConfig(uid_map=((0, 0, 1), (5, 5, 1)))) as view:
        MAKE[what](view, "d/mine", user(0))
        with pytest.raises(OSError) as caught:
            MAKE[what](view, "d/x", user(5, 0))
        assert caught.value.errno == errno.EOVERFLOW
        assert view.ls("d") == ["mine"]
    with stack.open(owners=OwnersConfig(uid_map=((5, 5, 1),), squash_uid=0)) as view:
        MAKE[what](view, "d/squashed", user(5, 0))
        assert owner(view.stat("d/squashed")) == (0, 0)
    assert owner((stack.upper / "d" / "squashed").lstat()) == (0, 0)


def test_a_file_without_a_name(stack: Stack) -> None:
    stack.layers({})
    with stack.open(owners=MAPPED) as view:
        inode, st, handle = view.union.tmpfile(view.ino(""), 0o600, os.O_RDWR, user(1000, 100001))
        assert owner(st) == (1000, 100001)
        view.known[inode.ino] += 1
        view._made(view.union.link(inode.ino, view.ino(""), b"now"))
        view.union.release(handle)
        assert owner(view.stat("now")) == (1000, 100001)
    assert owner((stack.upper / "now").lstat()) == (0, 2)


def test_setgid_directory_and_default_acl_give_stored_ids(stack: Stack) -> None:
    stack.layers({}, upper={"d": {}})
    os.chown(stack.upper / "d", 0, 5)
    os.chmod(stack.upper / "d", 0o2777)
    os.setxattr(stack.upper / "d", "system.posix_acl_default", named(6, 7))
    with stack.open(owners=MAPPED) as view:
        view.create("d/x", caller=user(100001))
        assert owner(view.stat("d/x")) == (100001, 100004)
        assert view.getxattr("d/x", "system.posix_acl_access") == named(100005, 100006).replace(
            struct.pack("<HHI", 0x10, 7, 0xFFFFFFFF), struct.pack("<HHI", 0x10, 4, 0xFFFFFFFF)
        ).replace(struct.pack("<HHI", 1, 7, 0xFFFFFFFF), struct.pack("<HHI", 1, 6, 0xFFFFFFFF))
        assert view.getxattr("d", "system.posix_acl_default") == named(100005, 100006)
    assert owner((stack.upper / "d" / "x").lstat()) == (2, 5)


@pytest.mark.parametrize("path", ["seven", "up", "d", "link", "out"])
def test_chown_stores_the_stored_id(stack: Stack, path: str) -> None:
    lower_tree(stack)
    with stack.open(owners=MAPPED) as view:
        assert owner(view.change(path, uid=100010, gid=1000)) == (100010, 1000)
        view.forget_all()
        assert owner(view.stat(path)) == (100010, 1000)
    assert owner((stack.upper / path).lstat()) == (11, 0)


@pytest.mark.parametrize(
    "changes",
    [Changes(uid=0), Changes(gid=0), Changes(uid=1000, gid=NOBODY), Changes(uid=7, gid=1000)],
    ids=["user", "group", "group of two", "user of two"],
)
@pytest.mark.parametrize("path", ["seven", "d", "up"])
def test_chown_to_what_the_map_lacks_changes_nothing(stack: Stack, path: str, changes: Changes) -> None:
    lower_tree(stack)
    with stack.open(owners=MAPPED) as view:
        before = owner(view.stat(path))
        with pytest.raises(OSError) as caught:
            complete(view.union.setattr, view.ino(path), replace(changes, mode=0o777), user(0), None)
        assert caught.value.errno == errno.EINVAL
        assert owner(view.stat(path)) == before
    assert os.listdir(stack.upper) == ["up"]
    assert owner((stack.upper / "up").lstat()) == (3, 4)
    assert stat.S_IMODE((stack.upper / "up").lstat().st_mode) != 0o777


def test_copy_up_keeps_what_is_stored(stack: Stack) -> None:
    """An owner outside the map, too: shown as nobody's, and yet never lost."""
    lower_tree(stack)
    with stack.open(owners=MAPPED) as view:
        view.write("d/in", b"changed")
        view.chmod("out", 0o600)
        assert owner(view.stat("out")) == (NOBODY, NOBODY)
        assert owner(view.stat("d/in")) == (100000, NOBODY)
    assert owner((stack.upper / "out").lstat()) == (5000, 6000)
    assert owner((stack.upper / "d" / "in").lstat()) == (1, 5000)
    assert owner((stack.upper / "d").lstat()) == (7, 7)


def test_acls_are_mapped_both_ways(stack: Stack) -> None:
    stack.layers({"f": "x", "low": "x"})
    os.setxattr(stack.lowers[0] / "low", "system.posix_acl_access", named(1, 5000))
    with stack.open(owners=MAPPED) as view:
        assert view.getxattr("low", "system.posix_acl_access") == named(100000, NOBODY)
        view.setxattr("f", "system.posix_acl_access", named(100005, 1000))
        assert view.getxattr("f", "system.posix_acl_access") == named(100005, 1000)
        with pytest.raises(OSError) as caught:
            view.setxattr("low", "system.posix_acl_access", named(0, 1000))
        assert caught.value.errno == errno.EINVAL
        view.setxattr("f", "user.system.posix_acl_access", named(0, 0))
        assert view.getxattr("f", "user.system.posix_acl_access") == named(0, 0)
    assert os.getxattr(stack.upper / "f", "system.posix_acl_access") == named(6, 0)
    assert os.listdir(stack.upper) == ["f"]


# --- squashing --------------------------------------------------------------------------------------


def test_squashing_shows_one_owner_and_stores_the_true_one(stack: Stack) -> None:
    lower_tree(stack)
    with stack.open(owners=OwnersConfig(squash_uid=0, squash_gid=0)) as view:
        view.create("new", caller=user(5, 6))
        assert owner(view.stat("new")) == (0, 0)
        assert owner(view.change("seven", uid=11, gid=12)) == (0, 0)
        view.chmod("out", 0o600)
    assert owner((stack.upper / "new").lstat()) == (5, 6)
    assert owner((stack.upper / "seven").lstat()) == (11, 12)
    assert owner((stack.upper / "out").lstat()) == (5000, 6000)


def test_set_ids_go_by_the_owner_that_is_shown(stack: Stack) -> None:
    """Setgid without group execute stays for a member of the group: of the one that callers see."""
    stack.layers({"mine": file("", mode=0o2664), "other": file("", mode=0o2664)})
    os.chown(stack.lowers[0] / "mine", 0, 5)
    os.chown(stack.lowers[0] / "other", 0, 6)
    with stack.open(owners=MAPPED) as view:
        for name in ("mine", "other"):
            view.write(name, b"x", caller=user(100003, 100004))
        assert stat.S_IMODE(view.stat("mine").st_mode) == 0o2664
        assert stat.S_IMODE(view.stat("other").st_mode) == 0o664


def test_a_union_without_owners_has_none_of_it(stack: Stack) -> None:
    """What costs something is there only for those who asked for it."""
    lower_tree(stack)
    with stack.open() as view:
        assert view.union.fs.owners is None
        assert type(view.inode("d")).__name__ == "Directory"
        assert type(view.inode("up")).__name__ == "File"
        assert type(view.union.fs.root.top).__name__ == "RealDir"


def test_index_and_metacopy(stack: Stack, tmp_path: Path) -> None:
    """Objects that are reached by work/index or hold no data of their own show the same owners."""
    stack.layers({"a": "data", "meta": "data"})
    low = stack.lowers[0]
    os.link(low / "a", low / "b")
    os.chown(low / "a", 7, 7)
    for _ in range(2):
        with stack.open(owners=MAPPED, index=True, metacopy=True) as view:
            assert owner(view.change("a", uid=100008)) == (100008, 100006)
            assert owner(view.stat("b")) == (100008, 100006)
            assert owner(view.change("meta", uid=100002)) == (100002, 1000)
            assert view.read("meta") == b"data"
    assert owner((stack.upper / "meta").lstat()) == (3, 0)


# --- root of a container ----------------------------------------------------------------------------


@pytest.fixture
def container() -> Iterator[int]:
    """A process that is root of a user namespace whose 0 to 99 are our 100000 to 100099."""
    # It must not exec: it would lose its capabilities, for it has no id yet.
    program = "import ctypes, sys; print(ctypes.CDLL(None).unshare(0x10000000), flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if child.stdout.readline() != "0\n":
            pytest.skip("the kernel lets nobody make a user namespace")
        for kind in ("uid", "gid"):
            Path(f"/proc/{child.pid}/{kind}_map").write_text("0 100000 100\n")
        yield child.pid
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait()


@pytest.mark.parametrize(
    ("uid", "gid", "kept"),
    [(100005, 100006, True), (0, 100006, False), (100005, 0, False), (100100, 100006, False)],
)
def test_capabilities_over_what_a_namespace_knows(
    stack: Stack, container: int, uid: int, gid: int, kept: bool
) -> None:
    """Root of a container keeps the setgid bit of a directory that gets an ACL, if it is the container's."""
    stack.layers({"d": {}, "f": "data"})
    for name in ("d", "f"):
        os.chown(stack.lowers[0] / name, uid, gid)
        os.chmod(stack.lowers[0] / name, 0o2755)
    root = Caller(100000, 100000, container, 0)
    with stack.open() as view:
        view.setxattr("d", "system.posix_acl_access", named(100000, 100001), caller=root)
        view.write("f", b"x", caller=root)
        assert stat.S_IMODE(view.stat("d").st_mode) == 0o770 | (stat.S_ISGID if kept else 0)
        assert stat.S_IMODE(view.stat("f").st_mode) == 0o755 | (stat.S_ISGID if kept else 0)
        assert not root.has_capability(CAP_SYS_ADMIN)
