"""`override_stat`: owner and mode in an attribute, read from the layers of others and kept in upper."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.test_owners import MAKE, MAP, NOBODY, acl, named, owner, user
from unionfs.errors import MountError
from unionfs.overlay import acl as module
from unionfs.overlay.config import OwnersConfig
from unionfs.overlay.override import CONTAINERS, FUSE_OVERLAYFS, NAMES, PRIVILEGED, Override, decode
from unionfs.overlay.wait import complete

IN_ATTRIBUTE = OwnersConfig(xattr_permissions=2)
NONE = 0xFFFFFFFF


def tell(path: Path, value: str, name: str = CONTAINERS) -> None:
    os.setxattr(path, name, value.encode())


def told(path: Path, name: str = CONTAINERS) -> str:
    return os.getxattr(path, name).decode()


def seen(view: View, path: str) -> tuple[str, int, int]:
    """Type and mode in octal, and owner."""
    st = view.stat(path)
    return f"{st.st_mode:o}", st.st_uid, st.st_gid


# --- the form ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0:0:755", Override(0, 0, 0o755)),
        ("1000:1001:0644", Override(1000, 1001, 0o644)),
        ("0:0:100755", Override(0, 0, 0o755)),  # fuse-overlayfs writes the type, too
        ("0:7:42775", Override(0, 7, 0o2775)),
        ("5:6:4755:file", Override(5, 6, 0o4755)),
        ("5:6:0755:dir", Override(5, 6, 0o755)),
        ("5:6:0777:symlink", Override(5, 6, 0o777)),
        ("5:6:0666:pipe", Override(5, 6, 0o666, stat.S_IFIFO)),
        ("5:6:0700:socket", Override(5, 6, 0o700, stat.S_IFSOCK)),
        ("5:6:0600:block-8-1", Override(5, 6, 0o600, stat.S_IFBLK, os.makedev(8, 1))),
        ("5:6:0666:char-1-3", Override(5, 6, 0o666, stat.S_IFCHR, os.makedev(1, 3))),
        ("-1:5:644", Override(NOBODY, 5, 0o644)),  # by fuse-overlayfs 1.10's chgrp
        ("4294967294:4294967295:0", Override(4294967294, NOBODY, 0)),
        ("0:0:755:something:new", Override(0, 0, 0o755)),
        ("0:0:755\0", Override(0, 0, 0o755)),
    ],
)
def test_decode(value: str, expected: Override) -> None:
    assert decode(value.encode()) == expected


@pytest.mark.parametrize(
    "value", ["", "0", "0:0", "0:0:", "0:0:9", "a:0:7", "0:0:755:block", "0:0:755 ", "0::7"]
)
def test_malformed(value: str) -> None:
    with pytest.raises(OSError) as caught:
        decode(value.encode())
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "value", ["0:0:755", "1000:5:4711", "0:0:600:block-8-1", "0:0:0:pipe", "1:2:7:char-5-300"]
)
def test_encode_is_what_was_decoded(value: str) -> None:
    assert decode(value.encode()).encode() == value.encode()


# --- reading ----------------------------------------------------------------------------------------


def store(stack: Stack, name: str = CONTAINERS) -> Path:
    """A lower as an image store holds it: everything is the user's, attributes say what it should be."""
    stack.layers(
        {"plain": "p", "set": "s", "d": {"in": "i"}, "untold": "u", "dev": "", "fifo": "", "broken": "b"}
    )
    low = stack.lowers[0]
    tell(low, "0:0:755", name)
    for path, value in {
        "plain": "3:4:640",
        "set": "5:6:4711:file",
        "d": "7:8:41777",
        "d/in": "9:10:0",
        "dev": "0:6:660:block-8-1",
        "fifo": "1:1:622:pipe",
        "broken": "nonsense",
    }.items():
        tell(low / path, value, name)
    os.symlink("plain", low / "link")
    os.chown(low / "link", 11, 12, follow_symlinks=False)
    return low


SHOWN = {
    "": ("40755", 0, 0),
    "plain": ("100640", 3, 4),
    "set": ("104711", 5, 6),
    "d": ("41777", 7, 8),
    "d/in": ("100000", 9, 10),
    "untold": ("100644", 0, 0),
    "dev": ("60660", 0, 6),
    "fifo": ("10622", 1, 1),
    "link": ("120777", 11, 12),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writable", [True, False], ids=["writable", "read-only"])
def test_read(stack: Stack, name: str, writable: bool) -> None:
    """Each name that such stores have, under every way to ask, whatever the object really is."""
    store(stack, name)
    if writable:
        os.setxattr(stack.upper, name, b"0:0:755")
    with stack.open(writable=writable, owners=IN_ATTRIBUTE) as view:
        for _ in range(2):
            for path, expected in SHOWN.items():
                assert seen(view, path) == expected, path
                assert seen(view, path) == expected, path
            view.forget_all()
        assert view.stat("dev").st_rdev == os.makedev(8, 1)
        for listed, entry, _ in complete(view.union.read_dir, view.union.open_dir(view.ino("")), 0):
            path = os.fsdecode(listed)
            if path in SHOWN and entry is not None:
                assert (f"{entry[1].st_mode:o}", entry[1].st_uid, entry[1].st_gid) == SHOWN[path]
        with pytest.raises(OSError) as caught:
            view.find("broken")
        assert caught.value.errno == errno.EINVAL


def test_types_in_a_plain_listing(stack: Stack) -> None:
    """A directory's own entries know no device that a regular file stands for."""
    store(stack)
    with stack.open(owners=IN_ATTRIBUTE) as view:
        handle = view.union.open_dir(view.ino(""))
        kinds = {name: kind for name, _, kind, _ in complete(view.union.read_dir_plain, handle, 0)}
        view.union.release_dir(handle)
    assert (kinds[b"dev"], kinds[b"fifo"], kinds[b"plain"], kinds[b"d"]) == (6, 1, 8, 4)


def test_whose_layers_are_told_of(stack: Stack) -> None:
    """A layer whose root has no such attribute is what its inodes say; without the option each is."""
    store(stack)
    with stack.open(foreign_marks=True) as view:
        assert seen(view, "plain") == SHOWN["plain"]
    with stack.open() as view:
        assert view.union.fs.owners is None
        assert seen(view, "set") == ("100644", 0, 0)
        assert view.getxattr("set", CONTAINERS) == b"5:6:4711:file"
    os.removexattr(stack.lowers[0], CONTAINERS)
    with stack.open(foreign_marks=True) as view:
        assert view.union.fs.owners is None
        assert seen(view, "plain") == ("100644", 0, 0)


def test_maps_come_after_attributes(stack: Stack) -> None:
    store(stack)
    with stack.open(owners=OwnersConfig(uid_map=MAP, gid_map=MAP, xattr_permissions=2)) as view:
        assert seen(view, "plain") == ("100640", 100002, 100003)
        view.change("plain", uid=1000)
        view.create("new", caller=user(100006))
        assert seen(view, "new") == ("100644", 100006, 100006)
    assert told(stack.upper / "plain") == "0:4:640"
    assert told(stack.upper / "new") == "7:7:644"


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


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_callers_neither_see_nor_set_it(stack: Stack, name: str, foreign: bool) -> None:
    store(stack)
    os.setxattr(stack.lowers[0] / "plain", "user.mine", b"x")
    with stack.open(owners=IN_ATTRIBUTE, foreign_marks=foreign) as view:
        for _ in range(2):
            assert view.listxattr("plain") == ["user.mine"]
            with pytest.raises(OSError) as caught:
                view.getxattr("plain", name)
            assert caught.value.errno == errno.ENODATA
            with pytest.raises(OSError) as caught:
                view.setxattr("plain", name, b"0:0:4755")
            assert caught.value.errno == errno.EPERM
            with pytest.raises(OSError) as caught:
                view.removexattr("plain", name)
            assert caught.value.errno == errno.ENODATA
            view.chmod("plain", 0o600)
        assert seen(view, "plain") == ("100600", 3, 4)


@pytest.mark.parametrize(("option", "name"), [(1, PRIVILEGED), (2, CONTAINERS)])
def test_a_new_upper(stack: Stack, option: int, name: str) -> None:
    """Its root is told of as it is, and from then on it keeps to that name."""
    stack.layers({"f": "x"})
    os.chown(stack.upper, 5, 6)
    os.chmod(stack.upper, 0o2751)
    with stack.open(owners=OwnersConfig(xattr_permissions=option)) as view:
        assert seen(view, "") == ("42751", 5, 6)
        view.chmod("f", 0o600)
    assert told(stack.upper, name) == "5:6:2751"
    assert told(stack.upper / "f", name) == "0:0:600"
    with stack.open(owners=OwnersConfig(xattr_permissions=3 - option)) as view:
        assert seen(view, "") == ("42751", 5, 6)
        view.chmod("f", 0o640)
    assert told(stack.upper / "f", name) == "0:0:640"
    assert [each for each in os.listxattr(stack.upper / "f") if each in NAMES] == [name]


def test_a_new_upper_over_a_store_has_its_root(stack: Stack) -> None:
    store(stack)
    tell(stack.lowers[0], "3:4:711")
    with stack.open(owners=IN_ATTRIBUTE) as view:
        assert seen(view, "") == ("40711", 3, 4)
        view.change("", mode=0o755)
        assert seen(view, "") == ("40755", 3, 4)
    assert told(stack.upper) == "3:4:755"


def test_an_upper_of_fuse_overlayfs_keeps_its_name(stack: Stack) -> None:
    stack.layers({}, upper={"f": "x"})
    tell(stack.upper, "0:0:40755", FUSE_OVERLAYFS)
    tell(stack.upper / "f", "-1:5:100644", FUSE_OVERLAYFS)
    with stack.open(foreign_marks=True) as view:
        assert seen(view, "f") == ("100644", NOBODY, 5)
        view.change("f", uid=3)
        view.create("new", caller=user(7))
    assert told(stack.upper / "f", FUSE_OVERLAYFS) == "3:5:644"
    assert told(stack.upper / "new", FUSE_OVERLAYFS) == "7:7:644"


def test_an_upper_that_cannot_hold_it_is_refused(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.layers({})
    real = os.setxattr

    def setxattr(path: bytes | int, name: str, *rest: object, **more: object) -> None:
        if name == PRIVILEGED:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(path, name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "setxattr", setxattr)
    with pytest.raises(MountError, match="xattr_permissions=2 needs no privilege"):
        stack.open(owners=OwnersConfig(xattr_permissions=1))


def test_layers_that_change_are_asked_again(stack: Stack) -> None:
    store(stack)
    stack.timeout = 1.0
    with stack.open(owners=IN_ATTRIBUTE) as view:
        assert seen(view, "plain") == ("100640", 3, 4)
        tell(stack.lowers[0] / "plain", "5:5:600")
        assert seen(view, "plain") == ("100600", 5, 5)


def test_an_attribute_is_read_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    store(stack)
    with stack.open(owners=IN_ATTRIBUTE) as view:
        ino = view.ino("plain")
        view.union.getattr(ino)
        monkeypatch.setattr(os, "getxattr", lambda *_, **__: pytest.fail("asked again"))
        assert owner(view.union.getattr(ino)[1]) == (3, 4)
