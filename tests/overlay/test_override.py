"""`override_stat`: owner and mode in an attribute, read from the layers of others and kept in upper."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.overlay.owners_rig import MAP, NOBODY, owner, user
from tests.overlay.rig import Stack, View
from unionfs.errors import MountError
from unionfs.overlay.config import OwnersConfig
from unionfs.overlay.owners.override_stat import (
    CONTAINERS,
    FUSE_OVERLAYFS,
    NAMES,
    PRIVILEGED,
    Override,
    decode,
)
from unionfs.overlay.wait import complete

IN_ATTRIBUTE = OwnersConfig(xattr_permissions=2)


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
