"""Extended attributes as callers see them: escapes, trusted ones, create and replace, every type."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from tests.overlay.rig import ROOT, USER, Stack, View
from tests.overlay.test_copy_up import ACCESS, CAPABILITY
from tests.overlay.trees import WHITEOUT, directory, disk, file, marks, node, symlink
from tests.support.mounts import needs_overlayfs, overlayfs

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


def fails(code: int, act: Callable[[], object]) -> None:
    with pytest.raises(OSError) as failure:
        act()
    assert failure.value.errno == code


def test_marks_never_show(stack: Stack) -> None:
    stack.layers(
        {"d": {"low": "l"}, "gone": "", "f": "f"},
        upper={"d": directory({"w": WHITEOUT}, redirect="d", impure="y"), "o": directory({}, opaque="y")},
    )
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o600)
        view.rename("d", "D")
        for path in ("", "D", "o", "f"):
            assert view.listxattr(path) == []
            for mark in ("opaque", "redirect", "impure", "origin", "metacopy", "nlink", "upper", "uuid"):
                fails(errno.ENODATA, lambda p=path, m=mark: view.getxattr(p, f"trusted.overlay.{m}"))  # type: ignore[misc]
                fails(errno.ENODATA, lambda p=path, m=mark: view.removexattr(p, f"trusted.overlay.{m}"))  # type: ignore[misc]
        assert set(marks(stack.upper / "D")) >= {"redirect"}


def test_callers_marks_are_escaped(stack: Stack) -> None:
    """A union whose layer is in this union writes its marks: they must not be ours."""
    stack.layers({"d": {"low": ""}, "f": "f"})
    with stack.open() as view:
        view.setxattr("d", "trusted.overlay.opaque", b"y")
        assert view.getxattr("d", "trusted.overlay.opaque") == b"y"
        assert view.listxattr("d") == ["trusted.overlay.opaque"]
        assert view.ls("d") == ["low"]
        view.setxattr("d", "trusted.overlay.overlay.opaque", b"n")
        assert view.listxattr("d") == ["trusted.overlay.opaque", "trusted.overlay.overlay.opaque"]
        view.setxattr("f", "trusted.overlayx", b"1")
        assert view.listxattr("f") == ["trusted.overlayx"]
    assert {k: v for k, v in marks(stack.upper / "d").items() if "overlay" in k} == {
        "overlay.opaque": b"y",
        "overlay.overlay.opaque": b"n",
    }
    with stack.open() as view:
        assert view.ls("d") == ["low"]
        view.removexattr("d", "trusted.overlay.opaque")
        assert view.listxattr("d") == ["trusted.overlay.overlay.opaque"]


@needs_overlayfs
def test_kernel_reads_the_same_escapes(stack: Stack) -> None:
    stack.layers({"d": {}})
    with stack.open() as view:
        view.setxattr("d", "trusted.overlay.opaque", b"y")
        view.setxattr("d", "user.overlay.opaque", b"u")
        ours = {name: view.getxattr("d", name) for name in view.listxattr("d")}
    with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged) as merged:
        theirs = {name: os.getxattr(merged / "d", name) for name in os.listxattr(merged / "d")}
    assert ours == theirs == {"trusted.overlay.opaque": b"y", "user.overlay.opaque": b"u"}


def test_userxattr_escapes_the_user_names(stack: Stack) -> None:
    stack.layers({"d": {"low": ""}})
    with stack.open(userxattr=True) as view:
        view.setxattr("d", "user.overlay.opaque", b"y")
        view.setxattr("d", "trusted.overlay.opaque", b"t")
        assert view.listxattr("d") == ["trusted.overlay.opaque", "user.overlay.opaque"]
        assert view.ls("d") == ["low"]
    assert os.getxattr(stack.upper / "d", "user.overlay.overlay.opaque") == b"y"
    assert os.getxattr(stack.upper / "d", "trusted.overlay.opaque") == b"t"
    assert disk(stack.upper, prefix="user.overlay.") == {"d": "dir origin overlay.opaque=y"}


def test_userxattr_writes_user_marks(stack: Stack) -> None:
    stack.layers({"d": {"f": "f"}, "w": {"x": ""}, "l": symlink("t")})
    with stack.open(userxattr=True, redirect_dir="nofollow") as view:
        view.write("d/f", b"F")
        view.unlink("w/x")
        view.rmdir("w")
        view.mkdir("w")
        view.change("l", uid=3)
        with pytest.raises(OSError) as failure:
            view.rename("d", "D")
        assert failure.value.errno == errno.EXDEV
        tree = view.tree()
    assert disk(stack.upper, prefix="user.overlay.") == {
        "d": "dir impure origin",
        "d/f": "file 'F' origin",
        "l": "link 't'",
        "w": "dir opaque",
    }
    assert marks(stack.upper / "d") == marks(stack.upper) == {}
    assert stack.kernel("userxattr") == tree


def test_trusted_names_are_listed_for_the_privileged(stack: Stack) -> None:
    stack.layers({"f": file("f", xattrs={"trusted.secret": b"1", "user.open": b"2"})})
    with stack.open() as view:
        assert view.listxattr("f", ROOT) == ["trusted.secret", "user.open"]
        assert view.listxattr("f", USER) == ["user.open"]


@pytest.mark.parametrize("place", ["lower", "upper"])
def test_create_and_replace(stack: Stack, place: str) -> None:
    tree = {"f": file("f", xattrs={"user.there": b"1"})}
    stack.layers(tree if place == "lower" else {"pad": ""}, upper=tree if place == "upper" else {})
    with stack.open() as view:
        fails(errno.EEXIST, lambda: view.setxattr("f", "user.there", b"2", CREATE))
        fails(errno.ENODATA, lambda: view.setxattr("f", "user.new", b"2", REPLACE))
        assert view.getxattr("f", "user.there") == b"1"
        view.setxattr("f", "user.there", b"2", REPLACE)
        view.setxattr("f", "user.new", b"3", CREATE)
        view.setxattr("f", "user.empty", b"")
        assert view.listxattr("f") == ["user.empty", "user.new", "user.there"]
        assert [view.getxattr("f", f"user.{n}") for n in ("there", "new", "empty")] == [b"2", b"3", b""]
        view.removexattr("f", "user.there")
        fails(errno.ENODATA, lambda: view.getxattr("f", "user.there"))
        fails(errno.ENODATA, lambda: view.removexattr("f", "user.there"))


def test_every_type_takes_what_linux_lets_it(stack: Stack) -> None:
    stack.layers({"d": {}, "l": symlink("f"), "p": node(stat.S_IFIFO | 0o600), "f": "f"})
    with stack.open() as view:
        for path in ("d", "l", "p", "f"):
            view.setxattr(path, "trusted.t", b"1")
            assert view.getxattr(path, "trusted.t") == b"1"
            assert view.listxattr(path) == ["trusted.t"]
        for path in ("l", "p"):
            fails(errno.EPERM, lambda p=path: view.setxattr(p, "user.u", b"1"))  # type: ignore[misc]
        fails(errno.EOPNOTSUPP, lambda: view.setxattr("f", "none.such", b"1"))
        fails(errno.EOPNOTSUPP, lambda: view.getxattr("f", "none.such"))
        fails(errno.ERANGE, lambda: view.setxattr("f", "user." + "n" * 300, b"1"))
    assert "trusted.t" not in os.listxattr(stack.lowers[0] / "l", follow_symlinks=False)
    assert os.getxattr(stack.upper / "l", "trusted.t", follow_symlinks=False) == b"1"
    assert (stack.upper / "f").read_text() == "f"


def test_capability_is_asked_for_cheaply_and_never_wrongly(stack: Stack) -> None:
    """Absence is remembered, for the kernel asks before every write; presence must come through at once."""
    stack.layers({"f": "f", "g": file("g", xattrs={"security.capability": CAPABILITY})})
    with stack.open() as view:
        name = "security.capability"
        fails(errno.ENODATA, lambda: view.getxattr("f", name))
        view.setxattr("f", name, CAPABILITY)
        assert view.getxattr("f", name) == CAPABILITY
        view.removexattr("f", name)
        fails(errno.ENODATA, lambda: view.getxattr("f", name))
        fails(errno.ENODATA, lambda: view.getxattr("f", name))
        assert view.getxattr("g", name) == CAPABILITY
        view.chmod("g", 0o700)
        assert view.getxattr("g", name) == CAPABILITY
        view.write("g", b"G")
        fails(errno.ENODATA, lambda: view.getxattr("g", name))
        view.setxattr("g", name, CAPABILITY)
        assert view.getxattr("g", name) == CAPABILITY
        view.change("g", uid=1)
        fails(errno.ENODATA, lambda: view.getxattr("g", name))
        fails(errno.ENODATA, lambda: view.removexattr("g", name))


def test_access_acl_sets_the_mode(stack: Stack) -> None:
    stack.layers({"f": file("f", mode=0o600), "d": {}})
    with stack.open() as view:
        view.setxattr("f", "system.posix_acl_access", ACCESS)
        assert view.stat("f").st_mode & 0o777 == 0o670
        assert view.getxattr("f", "system.posix_acl_access") == ACCESS
        view.chmod("f", 0o640)
        assert view.getxattr("f", "system.posix_acl_access") != ACCESS
        view.removexattr("f", "system.posix_acl_access")
        fails(errno.ENODATA, lambda: view.getxattr("f", "system.posix_acl_access"))
        assert view.listxattr("f") == []
    assert (stack.upper / "f").stat().st_mode & 0o777 == view_mode(stack)


def view_mode(stack: Stack) -> int:
    with stack.open() as view:
        return view.stat("f").st_mode & 0o777


def test_read_of_a_lower_copies_nothing_up(stack: Stack) -> None:
    stack.layers({"f": file("f", xattrs={"user.a": b"1"})})
    with stack.open() as view:
        view.getxattr("f", "user.a")
        view.listxattr("f")
        fails(errno.ENODATA, lambda: view.removexattr("f", "user.b"))
    assert disk(stack.upper) == {}


def test_space_is_enough_for_long_lists(stack: Stack) -> None:
    names = [f"user.{'n' * 60}{i:02}" for i in range(30)]
    stack.layers({"f": file("f", xattrs=dict.fromkeys(names, b"v"))})
    with stack.open() as view:
        assert view.listxattr("f") == names
        view.write("f", b"F")
        assert view.listxattr("f") == names


def make(view: View) -> None:
    view.create("f")


def test_new_objects_have_none(stack: Stack) -> None:
    stack.layers({"pad": ""})
    with stack.open() as view:
        make(view)
        view.mkdir("d")
        assert view.listxattr("f") == view.listxattr("d") == []
