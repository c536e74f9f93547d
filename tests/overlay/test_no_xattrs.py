"""Objects known to have no extended attributes: they are not asked again, and never answer wrongly for it."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import Tree, build, directory, file
from unionfs.linux import xattr

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
NAMES = ["user.x", "trusted.x", "security.capability", "security.x", ACCESS, DEFAULT]

# A default ACL with a named user, so that what inherits it has more than a mode: (tag, permissions, user).
_ANYBODY = 2**32 - 1
_ENTRIES = [(1, 7, _ANYBODY), (2, 6, 1000), (4, 5, _ANYBODY), (16, 7, _ANYBODY), (32, 0, _ANYBODY)]
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in _ENTRIES)


def answer(view: View, path: str, name: str) -> bytes | int:
    """The value, or the errno."""
    try:
        return view.getxattr(path, name)
    except OSError as error:
        return error.errno or 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the disk is asked for from now on."""
    done: list[str] = []
    true_get, true_list, true_os = xattr.get_at, xattr.list_at, os.getxattr

    def get_at(dirfd: int, name: bytes, attribute: bytes) -> bytes | None:
        done.append(attribute.decode())
        return true_get(dirfd, name, attribute)

    def list_at(dirfd: int, name: bytes, *, likely: bool = False) -> list[str]:
        done.append("list")
        return true_list(dirfd, name, likely=likely)

    def getxattr(path: bytes, attribute: bytes, **keywords: bool) -> bytes:
        done.append(os.fsdecode(attribute))
        return true_os(path, attribute, **keywords)

    monkeypatch.setattr(xattr, "get_at", get_at)
    monkeypatch.setattr(xattr, "list_at", list_at)
    monkeypatch.setattr(os, "getxattr", getxattr)
    return done


def test_a_bare_file_is_not_asked(stack: Stack, asked: list[str]) -> None:
    stack.layers({"one": "1", "two": "2", "some": file("s", xattrs={"user.x": b"there"})})
    with stack.open() as view:
        for name in NAMES:
            assert answer(view, "one", name) == errno.ENODATA
        view.inode("two")
        asked.clear()
        for name in NAMES:
            assert answer(view, "two", name) == errno.ENODATA
        assert view.listxattr("two") == []
        assert asked == []
        assert answer(view, "some", "user.x") == b"there"
        assert answer(view, "some", "user.y") == errno.ENODATA
        assert view.listxattr("some") == ["user.x"]


def test_new_objects_in_a_bare_directory_are_bare(stack: Stack, asked: list[str]) -> None:
    stack.layers({})
    with stack.open() as view:
        view.create("f")
        view.mkdir("d")
        view.create("d/f")
        for name in NAMES:
            assert answer(view, "f", name) == errno.ENODATA
        asked.clear()
        for path in ("d", "d/f"):
            for name in NAMES:
                assert answer(view, path, name) == errno.ENODATA
        assert set(asked) == {"security.x"}, "upper may get such by itself"


@pytest.mark.parametrize("where", ["lower", "upper", "new"])
def test_what_is_set_is_seen(stack: Stack, where: str) -> None:
    stack.layers({"f": "f"} if where == "lower" else {}, upper={"f": "f"} if where == "upper" else None)
    with stack.open() as view:
        if where == "new":
            view.create("f")
        for name in NAMES[:4]:
            assert answer(view, "f", name) == errno.ENODATA
        view.setxattr("f", "user.x", b"set")
        assert answer(view, "f", "user.x") == b"set"
        assert view.listxattr("f") == ["user.x"]
        view.removexattr("f", "user.x")
        assert answer(view, "f", "user.x") == errno.ENODATA
        assert view.listxattr("f") == []


def test_a_default_acl_is_inherited_by_what_comes_after_it(stack: Stack) -> None:
    stack.layers({"d": {}})
    with stack.open() as view:
        view.create("d/before")
        view.mkdir("d/dir")
        view.setxattr("d", DEFAULT, ACL)
        assert answer(view, "d/before", ACCESS) == errno.ENODATA
        view.create("d/after")
        view.mkdir("d/sub")
        view.mkdir("d/sub/sub")
        view.create("d/dir/f")
        assert answer(view, "d/after", ACCESS) != errno.ENODATA
        assert view.listxattr("d/after") == [ACCESS]
        assert answer(view, "d/sub/sub", DEFAULT) == ACL
        assert answer(view, "d/dir/f", ACCESS) == errno.ENODATA


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_a_directory_with_an_acl_is_known_for_it(stack: Stack, layer: str) -> None:
    tree: Tree = {"d": directory({}, xattrs={DEFAULT: ACL})}
    stack.layers(
        tree if layer == "lower" else {}, {"d": {"low": ""}}, upper=tree if layer == "upper" else None
    )
    with stack.open() as view:
        view.create("d/f")
        assert answer(view, "d", DEFAULT) == ACL
        assert view.listxattr("d/f") == [ACCESS]


def test_the_root_with_an_acl(stack: Stack) -> None:
    stack.layers({"bare": ""})
    os.setxattr(stack.upper, DEFAULT, ACL)
    with stack.open() as view:
        view.chmod("bare", 0o600)
        answer(view, "bare", ACCESS)
        view.create("f")
        assert answer(view, "f", ACCESS) != errno.ENODATA


@pytest.mark.parametrize(
    ("name", "code"),
    [("other.x", errno.EOPNOTSUPP), ("system.other", errno.EOPNOTSUPP), ("user.", errno.EINVAL)],
)
def test_what_the_filesystem_says_of_strange_names(stack: Stack, name: str, code: int) -> None:
    """Also when it has said of others of their kind that they are absent."""
    stack.layers({"f": "f"})
    with stack.open() as view:
        for known in NAMES:
            answer(view, "f", known)
        assert answer(view, "f", name) == code
        assert answer(view, "f", name) == code


def test_an_index_entry_is_looked_at_itself(stack: Stack) -> None:
    """The lower file has no attributes, its copy in the index has."""
    stack.layers({"a": "a"})
    os.link(stack.lowers[0] / "a", stack.lowers[0] / "b")
    with stack.open(index=True) as view:
        view.setxattr("a", "user.x", b"set")
    with stack.open(index=True) as view:
        answer(view, "b", "user.y")
        assert answer(view, "b", "user.x") == b"set"


def test_layers_that_change_are_always_asked(stack: Stack) -> None:
    stack.layers({"f": "f"})
    stack.timeout = 1.0
    with stack.open() as view:
        assert answer(view, "f", "user.x") == errno.ENODATA
        os.setxattr(stack.lowers[0] / "f", "user.x", b"set")
        assert answer(view, "f", "user.x") == b"set"
        assert view.listxattr("f") == ["user.x"]


# --- the calls themselves ---------------------------------------------------------------------------


@pytest.fixture(params=["listxattrat", "by /proc"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by /proc":
        monkeypatch.setattr(xattr, "has_xattrat", False)
    elif not xattr.has_xattrat:
        pytest.skip("needs Linux 6.13")


@pytest.mark.usefixtures("calls")
def test_calls(base: Path) -> None:
    long = b"v" * 1000
    some = file("", xattrs={"user.long": long, "user.void": b"", "trusted.y": b"y"})
    many = file("", xattrs={f"user.{number}-{'n' * 60}": b"" for number in range(20)})
    tree: Tree = {"none": "", "some": some, "many": many}
    build(base, tree)
    os.symlink("some", base / "link")
    fd = os.open(base, os.O_PATH)
    try:
        for likely in (False, True):
            assert xattr.list_at(fd, b"none", likely=likely) == []
            assert sorted(xattr.list_at(fd, b"some", likely=likely)) == [
                "trusted.y",
                "user.long",
                "user.void",
            ]
            assert xattr.list_at(fd, b"link", likely=likely) == []
            assert len(xattr.list_at(fd, b"many", likely=likely)) == 20, "more than fits in the first time"
        assert xattr.get_at(fd, b"some", b"user.long") == long
        assert xattr.get_at(fd, b"some", b"user.void") == b""
        assert xattr.get_at(fd, b"some", b"user.none") is None
        assert xattr.get_at(fd, b"link", b"trusted.y") is None
        absent: list[tuple[Callable[[], object], int]] = [
            (lambda: xattr.list_at(fd, b"gone"), errno.ENOENT),
            (lambda: xattr.list_at(fd, b"gone", likely=True), errno.ENOENT),
            (lambda: xattr.get_at(fd, b"gone", b"user.x"), errno.ENOENT),
            (lambda: xattr.get_at(fd, b"none", b"other.x"), errno.EOPNOTSUPP),
        ]
        for act, code in absent:
            with pytest.raises(OSError) as failure:
                act()
            assert failure.value.errno == code
    finally:
        os.close(fd)
