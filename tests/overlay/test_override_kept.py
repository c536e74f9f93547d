"""`override_stat` in upper: what changes, new objects, inheritance and ACLs make of owner and mode."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.owners_rig import MAKE, NOBODY, acl, named, owner, user
from tests.overlay.rig import Stack, View
from tests.overlay.test_override import IN_ATTRIBUTE, SHOWN, seen, store, tell, told
from tests.overlay.trees import symlink
from unionfs.overlay.config import OwnersConfig
from unionfs.overlay.owners import acl as module
from unionfs.overlay.owners.override_stat import CONTAINERS

NONE = 0xFFFFFFFF

# --- keeping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["plain", "set", "d", "d/in", "untold"])
def test_copy_up_tells_the_same(stack: Stack, path: str) -> None:
    store(stack)
    with stack.open(owners=IN_ATTRIBUTE) as view:
        view.change(path, mtime_ns=5)
        assert seen(view, path) == SHOWN[path]
        view.forget_all()
        assert seen(view, path) == SHOWN[path]
        if path == "d/in":
            assert seen(view, "d") == SHOWN["d"]
    st = (stack.upper / path).lstat()
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7700) == (0, 0, 0o700)
    mode, uid, gid = SHOWN[path]
    assert told(stack.upper / path) == f"{uid}:{gid}:{int(mode, 8) & 0o7777:o}"
    with stack.open(owners=IN_ATTRIBUTE) as view:
        assert seen(view, path) == SHOWN[path]


def test_copy_up_from_and_to_a_layer_that_tells(stack: Stack) -> None:
    """An upper without attributes gets real owners and modes."""
    store(stack)
    with stack.open(foreign_marks=True) as view:
        view.change("set", mtime_ns=5)
        view.change("d/in", mtime_ns=5)
        view.change("fifo", mtime_ns=5)
        assert seen(view, "set") == SHOWN["set"]
        assert seen(view, "fifo") == SHOWN["fifo"]
    st = (stack.upper / "set").lstat()
    assert (st.st_mode, st.st_uid, st.st_gid) == (0o104711, 5, 6)
    assert CONTAINERS not in os.listxattr(stack.upper / "set")
    st = (stack.upper / "d").lstat()
    assert (st.st_mode, st.st_uid, st.st_gid) == (0o41777, 7, 8)
    assert stat.S_ISFIFO((stack.upper / "fifo").lstat().st_mode)


@pytest.mark.parametrize("what", MAKE)
@pytest.mark.parametrize("gone", [False, True], ids=["new", "over a whiteout"])
def test_new_objects(stack: Stack, what: str, gone: bool) -> None:
    stack.layers({"x": "lower"} if gone else {})
    with stack.open(owners=IN_ATTRIBUTE) as view:
        if gone:
            view.unlink("x")
        MAKE[what](view, "x", user(7, 8, 0o027))
        st = view.stat("x")
        assert owner(st) == (7, 8)
        wanted = {"mkdir": 0o750, "symlink": 0o777}.get(what, 0o640)
        assert stat.S_IMODE(st.st_mode) == wanted
        assert stack.work_names() in ([], ["#1"])
    real = (stack.upper / "x").lstat()
    if what in ("create", "mkdir"):
        assert told(stack.upper / "x") == f"7:8:{wanted:o}"
        assert (real.st_uid, real.st_gid) == (0, 0)
    else:
        assert (real.st_uid, real.st_gid, stat.S_IMODE(real.st_mode)) == (7, 8, wanted)


def test_a_file_without_a_name(stack: Stack) -> None:
    stack.layers({})
    with stack.open(owners=IN_ATTRIBUTE) as view:
        inode, st, handle = view.union.tmpfile(view.ino(""), 0o666, os.O_RDWR, user(7, 8, 0o022))
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (7, 8, 0o644)
        view.known[inode.ino] += 1
        view._made(view.union.link(inode.ino, view.ino(""), b"now"))
        view.union.release(handle)
        assert seen(view, "now") == ("100644", 7, 8)
    assert told(stack.upper / "now") == "7:8:644"


CHANGES: dict[str, tuple[Callable[[View], object], tuple[str, int, int]]] = {
    "chmod": (lambda view: view.chmod("f", 0o2600), ("102600", 3, 4)),
    "chmod to nothing": (lambda view: view.chmod("f", 0), ("100000", 3, 4)),
    "chown": (lambda view: view.change("f", uid=9), ("100750", 9, 4)),
    "chgrp": (lambda view: view.change("f", gid=9), ("100750", 3, 9)),
    "both": (lambda view: view.change("f", uid=NOBODY, gid=4294967294), ("100750", NOBODY, 4294967294)),
    "chown and chmod": (lambda view: view.change("f", uid=9, mode=0o4755), ("104755", 9, 4)),
    "write": (lambda view: view.write("f", b"x", caller=user(9)), ("100750", 3, 4)),
    "truncate": (lambda view: view.change("f", size=0, caller=user(9)), ("100750", 3, 4)),
    "write as root": (lambda view: view.write("f", b"x"), ("106750", 3, 4)),
}


@pytest.mark.parametrize("where", ["lower", "upper"])
@pytest.mark.parametrize("what", CHANGES)
def test_changes(stack: Stack, what: str, where: str) -> None:
    """What chmod, chown and writes make of a setuid file: as on a filesystem, with nothing real changed."""
    stack.layers({"f": "data"} if where == "lower" else {}, upper={"f": "data"} if where == "upper" else {})
    top = stack.lowers[0] if where == "lower" else stack.upper
    tell(top, "0:0:755")
    tell(top / "f", "3:4:6750")
    act, expected = CHANGES[what]
    with stack.open(owners=IN_ATTRIBUTE) as view:
        assert seen(view, "f") == ("106750", 3, 4)
        act(view)
        assert seen(view, "f") == expected
        view.forget_all()
        assert seen(view, "f") == expected
    real = (stack.upper / "f").lstat()
    assert (real.st_uid, real.st_gid, real.st_mode & 0o7000) == (0, 0, 0)
    if what != "write as root":
        assert real.st_mode & 0o700 == 0o700
    mode, uid, gid = expected
    assert told(stack.upper / "f") == f"{uid}:{gid}:{int(mode, 8) & 0o7777:o}"


def test_chown_takes_a_capability(stack: Stack) -> None:
    stack.layers({"f": "data"})
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(stack.lowers[0] / "f", "security.capability", capability)
    with stack.open(owners=IN_ATTRIBUTE) as view:
        view.chmod("f", 0o700)
        assert view.getxattr("f", "security.capability") == capability
        view.change("f", uid=5)
        with pytest.raises(OSError):
            view.getxattr("f", "security.capability")


ISOLATED = "user.containers.override_security.capability"
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def test_security_attributes_are_kept_apart(stack: Stack) -> None:
    """As fuse-overlayfs has it since 1.14: those of a layer's own files say nothing of what callers see."""
    stack.layers({"f": "of a plain layer"}, {"g": "", "h": "", "l": symlink("f")}, upper={"u": ""})
    plain, told_lower = stack.lowers
    tell(told_lower, "0:0:755")
    for path in (plain / "f", told_lower / "g", told_lower / "h", stack.upper / "u"):
        os.setxattr(path, "security.capability", CAPABILITY)
    os.setxattr(told_lower / "l", "security.mark", b"", follow_symlinks=False)
    os.setxattr(told_lower / "g", ISOLATED, CAPABILITY[:-4] + b"mine")
    with stack.open(owners=IN_ATTRIBUTE) as view:
        for name, shown in (("f", CAPABILITY), ("g", CAPABILITY[:-4] + b"mine"), ("h", None), ("u", None)):
            for _ in range(2):  # from the lower, then from upper
                assert ("security.capability" in view.listxattr(name)) == (shown is not None)
                assert ISOLATED not in view.listxattr(name)
                if shown is None:
                    with pytest.raises(OSError, match="No data"):
                        view.getxattr(name, "security.capability")
                else:
                    assert view.getxattr(name, "security.capability") == shown
                view.chmod(name, 0o700)
        view.change("l", mtime_ns=1)
        view.setxattr("u", "security.capability", CAPABILITY)
        assert view.getxattr("u", "security.capability") == CAPABILITY
    attributes = {name: os.listxattr(stack.upper / name) for name in "fghu"}
    assert {name for name, found in attributes.items() if ISOLATED in found} == {"f", "g", "u"}
    assert {name for name, found in attributes.items() if "security.capability" in found} == {"u"}


@pytest.mark.parametrize("how", ["chown", "truncate", "open with O_TRUNC", "removexattr"])
def test_changes_take_a_capability_that_is_kept_apart(stack: Stack, how: str) -> None:
    stack.layers({}, upper={"f": "data"})
    with stack.open(owners=IN_ATTRIBUTE) as view:
        view.setxattr("f", "security.capability", CAPABILITY)
        if how == "chown":
            view.change("f", uid=5)
        elif how == "truncate":
            view.change("f", size=0)
        elif how == "removexattr":
            view.removexattr("f", "security.capability")
        else:
            view.union.release(view.open("f", os.O_WRONLY | os.O_TRUNC))
        with pytest.raises(OSError, match="No data"):
            view.getxattr("f", "security.capability")
    assert ISOLATED not in os.listxattr(stack.upper / "f")


def test_links_and_renames_keep_what_is_told(stack: Stack) -> None:
    store(stack)
    with stack.open(owners=IN_ATTRIBUTE) as view:
        view.link("plain", "linked")
        view.rename("plain", "d/moved")
        view.chmod("linked", 0o600)
        for path in ("linked", "d/moved"):
            assert seen(view, path) == ("100600", 3, 4)
        view.mkdir("empty")
        view.rename("empty", "emptied")
        assert seen(view, "emptied") == ("40755", 0, 0)


def test_an_open_file_without_a_name(stack: Stack) -> None:
    store(stack)
    with stack.open(owners=IN_ATTRIBUTE) as view:
        ino = view.ino("plain")
        with view.opened("plain", os.O_RDWR) as handle:
            view.unlink("plain")
            assert owner(view.union.getattr(ino)[1]) == (3, 4)
            handle.write(0, b"x")
            assert stat.S_IMODE(view.union.getattr(ino)[1].st_mode) == 0o640


def test_metacopy_and_index(stack: Stack) -> None:
    store(stack)
    low = stack.lowers[0]
    os.link(low / "set", low / "other")
    for _ in range(2):
        with stack.open(owners=IN_ATTRIBUTE, metacopy=True, index=True) as view:
            view.change("plain", gid=77)
            assert seen(view, "plain") == ("100640", 3, 77)
            view.change("set", gid=77)
            assert seen(view, "other")[2] == 77
            assert view.read("plain") == b"p"
            assert view.read("other") == b"s"
    assert (stack.upper / "plain").stat().st_blocks == 0 or (stack.upper / "plain").stat().st_size == 1


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
def test_devices_and_their_like_are_real(stack: Stack, kind: int) -> None:
    """They cannot have the attribute; for one that a regular file stands for, root makes a true one."""
    word = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "char-1-3"}[kind]
    stack.layers({"x": ""})
    tell(stack.lowers[0], "0:0:755")
    tell(stack.lowers[0] / "x", f"5:6:620:{word}")
    with stack.open(owners=IN_ATTRIBUTE) as view:
        view.chmod("x", 0o640)
        view.change("x", gid=9)
        assert seen(view, "x") == (f"{kind | 0o640:o}", 5, 9)
    st = (stack.upper / "x").lstat()
    assert (st.st_mode, st.st_uid, st.st_gid) == (kind | 0o640, 5, 9)


def test_a_device_that_we_may_not_make(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A regular file stands for it in upper, too, as it does in the image's layer."""
    real = os.mknod

    def mknod(path: bytes, mode: int, device: int = 0, *, dir_fd: int | None = None) -> None:
        if stat.S_ISBLK(mode):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(path, mode, device, dir_fd=dir_fd)

    store(stack)
    with stack.open(owners=IN_ATTRIBUTE) as view:
        monkeypatch.setattr(os, "mknod", mknod)
        view.chmod("dev", 0o600)
        assert seen(view, "dev") == ("60600", 0, 6)
        assert view.stat("dev").st_rdev == os.makedev(8, 1)
        view.forget_all()
        assert seen(view, "dev") == ("60600", 0, 6)
    assert told(stack.upper / "dev") == "0:6:600:block-8-1"


# --- inheriting, ACLs -------------------------------------------------------------------------------


def test_setgid_directories(stack: Stack) -> None:
    stack.layers({})
    with stack.open(owners=IN_ATTRIBUTE) as view:
        view.mkdir("d", caller=user(5, 6))
        view.chmod("d", 0o2777)
        view.mkdir("d/sub", caller=user(7))
        view.create("d/f", caller=user(7))
        view.create("d/runs", mode=0o2775, caller=user(7))
        assert seen(view, "d/sub") == ("42755", 7, 6)
        assert seen(view, "d/f") == ("100644", 7, 6)
        assert seen(view, "d/runs") == ("100775", 7, 6)
        view.mkdir("d/sub/deep", caller=user(8))
        assert seen(view, "d/sub/deep") == ("42755", 8, 6)
    assert stat.S_IMODE((stack.upper / "d" / "sub").lstat().st_mode) == 0o755


def plainly(stack: Stack, act: Callable[[View], object], owners: OwnersConfig) -> dict[str, object]:
    """What a union shows of mode, owner and ACLs after an act."""
    with stack.open(owners=owners) as view:
        act(view)
        found: dict[str, object] = {}
        for path in view.ls():
            acls: list[bytes | None] = []
            for name in (module.ACCESS, module.DEFAULT):
                try:
                    acls.append(view.getxattr(path, name))
                except OSError:
                    acls.append(None)
            found[path] = (*seen(view, path), *acls)
        return found


DEFAULTS = {
    "named": named(5, 6),
    "narrow": acl((1, 6, NONE), (2, 7, 5), (4, 4, NONE), (0x10, 5, NONE), (0x20, 1, NONE)),
    "minimal": acl((1, 7, NONE), (4, 5, NONE), (0x20, 0, NONE)),
}


@pytest.mark.parametrize("default", DEFAULTS)
def test_acls_are_as_on_the_filesystem(base: Path, default: str) -> None:
    """Inherited, set, changed by chmod: a union that keeps all in attributes shows no difference."""

    def act(view: View) -> None:
        view.union.setxattr(1, b"system.posix_acl_default", DEFAULTS[default], 0, user(0))
        view.create("file", mode=0o666, caller=user(7, 8, 0o077))
        view.create("private", mode=0o600, caller=user(7, 8, 0))
        view.mkdir("dir", mode=0o777, caller=user(7, 8, 0o077))
        view.mknod("fifo", stat.S_IFIFO | 0o666, caller=user(7, 8, 0o077))
        view.create("set", caller=user(7, 8, 0o022))
        view.setxattr("set", module.ACCESS, named(9, 10))
        view.create("changed", caller=user(7, 8, 0o022))
        view.setxattr("changed", module.ACCESS, named(9, 10))
        view.chmod("changed", 0o4541)
        view.create("closed", caller=user(7, 8, 0o022))
        view.setxattr(
            "closed",
            module.ACCESS,
            acl((1, 0, NONE), (2, 7, 9), (4, 7, NONE), (0x10, 6, NONE), (0x20, 0, NONE)),
        )
        view.create("taken", caller=user(7, 8, 0o022))
        view.setxattr("taken", module.ACCESS, named(9, 10))
        view.removexattr("taken", module.ACCESS)

    sides = []
    for name, owners in (("real", OwnersConfig()), ("told", IN_ATTRIBUTE)):
        (base / name).mkdir()
        stack = Stack(base / name).layers({})
        sides.append(plainly(stack, act, owners))
        # Once more, from what is stored.
        sides.append(plainly(stack, lambda view: None, owners))
    assert sides[0] == sides[1] == sides[2] == sides[3]
    assert len(sides[0]) == 8


def test_acl_survives_a_copy_up(stack: Stack) -> None:
    stack.layers({"f": "x"})
    os.setxattr(stack.lowers[0] / "f", module.ACCESS, named(5, 6))
    with stack.open(owners=IN_ATTRIBUTE) as view:
        view.change("f", uid=3)
        assert seen(view, "f") == ("100770", 3, 0)
        assert view.getxattr("f", module.ACCESS) == named(5, 6)
