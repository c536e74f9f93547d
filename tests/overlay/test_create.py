"""Making names: over nothing, over a whiteout, over something; owner, mode, setgid, umask and ACLs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from tests.overlay.rig import ROOT, Stack, View, caller
from tests.overlay.test_copy_up import DEFAULT
from tests.overlay.trees import WHITEOUT, Spec, Tree, directory, disk, marks
from tests.support.mounts import needs_overlayfs

Make = Callable[[View, str], object]
MAKE: dict[str, tuple[Make, str]] = {
    "create": (lambda view, path: view.create(path, b"new"), "file 'new'"),
    "mkdir": (lambda view, path: view.mkdir(path), "dir"),
    "symlink": (lambda view, path: view.symlink("to", path), "link 'to'"),
    "fifo": (lambda view, path: view.mknod(path, stat.S_IFIFO | 0o600), "fifo 0:0"),
    "socket": (lambda view, path: view.mknod(path, stat.S_IFSOCK | 0o600), "socket 0:0"),
    "file by mknod": (lambda view, path: view.mknod(path, stat.S_IFREG | 0o600), "file ''"),
    "device": (lambda view, path: view.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)), "char 1:5"),
    "link": (lambda view, path: view.link("own", path), "file 'own'"),
    "link of a lower": (lambda view, path: view.link("low", path), "file 'low' origin"),
    "rename": (lambda view, path: view.rename("own", path), "file 'own'"),
    "rename of a lower": (lambda view, path: view.rename("low", path), "file 'low' origin"),
    "rename of a directory": (lambda view, path: view.rename("owndir", path), "dir"),
    "rename of a lower directory": (
        lambda view, path: view.rename("lowdir", path),
        "dir origin redirect=/lowdir",
    ),
}

OVER: dict[str, tuple[Tree, list[Tree], bool]] = {
    # upper, lowers, whether a new directory must be opaque
    "nothing, pure upper": ({"d": {}}, [{"pad": ""}], False),
    "nothing, merged": ({"d": {}}, [{"d": {}}], True),
    "whiteout of a file": ({"d": {"x": WHITEOUT}}, [{"d": {"x": "hidden"}}], True),
    "whiteout of a directory": ({"d": {"x": WHITEOUT}}, [{"d": {"x": {"hidden": ""}}}], True),
    "whiteout of nothing": ({"d": {"x": WHITEOUT}}, [{"d": {}}], True),
    "whiteout in a pure upper": ({"d": {"x": WHITEOUT}}, [{"pad": ""}], False),
    "whiteout in the top lower": ({}, [{"d": {"x": WHITEOUT}}, {"d": {"x": {"hidden": ""}}}], True),
    ".wh. in upper": ({"d": {".wh.x": ""}}, [{"d": {"x": {"hidden": ""}}}], True),
    ".wh. in the top lower": ({}, [{"d": {".wh.x": ""}}, {"d": {"x": {"hidden": ""}}}], True),
    "opaque directory": ({"d": directory({}, opaque="y")}, [{"d": {"x": {"hidden": ""}}}], False),
}


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("what", MAKE)
def test_make(stack: Stack, what: str, over: str) -> None:
    make, line = MAKE[what]
    upper, lowers, opaque = OVER[over]
    extra: Tree = {"low": "low", "lowdir": {"in": ""}}
    stack.layers({**lowers[0], **extra}, *lowers[1:], upper={**upper, "own": "own", "owndir": {}})
    with stack.open() as view:
        assert not view.exists("d/x")
        make(view, "d/x")
        assert view.ls("d") == ["x"]
        if line.startswith("dir") and "redirect" not in line:
            assert view.ls("d/x") == []
        with pytest.raises(FileExistsError):
            view.create("d/x")
        with pytest.raises(FileExistsError):
            view.mkdir("d/x")
        view.forget_all()
        tree = view.tree()
        assert "d/x/hidden" not in tree
    held = disk(stack.upper)
    got = held["d/x"]
    if line == "dir":
        # Whether a directory with nothing below it is opaque is left open; over something it must be.
        assert got in ("dir", "dir opaque")
        if opaque:
            assert got == "dir opaque"
    else:
        assert got == line
    assert stack.work_names() == []
    if ".wh." not in over:
        assert stack.kernel("redirect_dir=on") == tree
    with stack.open() as view:
        assert view.tree() == tree


@pytest.mark.parametrize("what", [what for what in MAKE if not what.startswith("rename")])
def test_exists(stack: Stack, what: str) -> None:
    make, _ = MAKE[what]
    stack.layers({"low": "low", "x": "there", "y": {}})
    stack.layers(upper={"own": "own"})
    with stack.open() as view:
        for name in ("x", "y", "own"):
            with pytest.raises(FileExistsError):
                make(view, name)
    assert disk(stack.upper) == {"own": "file 'own'"}


@pytest.mark.parametrize("over", OVER)
def test_new_directory_shows_nothing_old_without_redirects(stack: Stack, over: str) -> None:
    """With redirect_dir=off opaque is written only where it is needed: there it must be."""
    upper, lowers, _ = OVER[over]
    stack.layers(*lowers, upper=upper)
    with stack.open(redirect_dir="off") as view:
        view.mkdir("d/x")
        view.create("d/x/new")
        assert view.ls("d/x") == ["new"]
    with stack.open(redirect_dir="off") as view:
        assert view.ls("d/x") == ["new"]
    if over == "nothing, merged":
        assert disk(stack.upper)["d/x"] == "dir"


def test_link_of_a_directory_is_refused(stack: Stack) -> None:
    stack.layers({"d": {}})
    with stack.open() as view, pytest.raises(PermissionError):
        view.link("d", "e")
    assert disk(stack.upper) == {}


# --- owner, mode, what is inherited ----------------------------------------------------------------

PARENTS = {"pure upper": 0, "merged": 1, "lower": 2, "over a whiteout": 3}


def parent(stack: Stack, kind: str, d: Spec) -> Stack:
    tree: Tree = {"d": d}
    if kind == "pure upper":
        return stack.layers({"pad": ""}, upper=tree)
    if kind == "merged":
        return stack.layers({"d": {"low": ""}}, upper=tree)
    if kind == "lower":
        return stack.layers(tree)
    stack.layers({"d": dict.fromkeys(("file", "dir", "node", "link"), "hidden")}, upper=tree)
    for name in ("file", "dir", "node", "link"):
        os.mknod(stack.upper / "d" / name, stat.S_IFCHR, 0)
    return stack


def make_all(view: View, who: int, umask: int) -> dict[str, os.stat_result]:
    by = caller(who, who + 1, umask)
    view.create("d/file", b"", 0o6666, by)
    view.mkdir("d/dir", 0o1777, by)
    view.mknod("d/node", stat.S_IFIFO | 0o666, 0, by)
    view.symlink("to", "d/link", by)
    return {name: view.stat(f"d/{name}") for name in ("file", "dir", "node", "link")}


@pytest.mark.parametrize("kind", PARENTS)
@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_new_objects_are_the_callers(stack: Stack, kind: str, umask: int) -> None:
    parent(stack, kind, directory({}, mode=0o777))
    with stack.open() as view:
        made = make_all(view, 1000, umask)
        assert {(st.st_uid, st.st_gid) for st in made.values()} == {(1000, 1001)}
        modes = {name: stat.S_IMODE(st.st_mode) for name, st in made.items()}
        assert modes["file"] & 0o777 == 0o666 & ~umask
        assert modes["dir"] == 0o1777 & ~umask
        assert modes["node"] == 0o666 & ~umask
        assert (os.geteuid(), os.getegid()) == (0, 0)
        view.create("d/roots", caller=ROOT)
        assert (view.stat("d/roots").st_uid, view.stat("d/roots").st_gid) == (0, 0)
    assert (stack.upper / "d/file").stat().st_uid == 1000
    assert stack.work_names() == []


@pytest.mark.parametrize("kind", PARENTS)
def test_setgid_directory_gives_its_group(stack: Stack, kind: str) -> None:
    parent(stack, kind, directory({}, mode=0o2777, owner=(0, 77)))
    with stack.open() as view:
        made = make_all(view, 1000, 0)
        assert {(st.st_uid, st.st_gid) for st in made.values()} == {(1000, 77)}
        assert stat.S_IMODE(made["dir"].st_mode) & stat.S_ISGID
    assert stack.work_names() == []
    assert "overlay.opaque" not in os.listxattr(stack.upper / "d")


def value(read: Callable[[], bytes]) -> bytes | None:
    """What *read* gives; None for an attribute that is not set."""
    try:
        return read()
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


@pytest.mark.parametrize("kind", PARENTS)
def test_default_acl_is_inherited(stack: Stack, kind: str) -> None:
    parent(stack, kind, directory({}, mode=0o777, xattrs={"system.posix_acl_default": DEFAULT}))
    plain = stack.base / "plain"
    plain.mkdir()
    os.setxattr(plain, "system.posix_acl_default", DEFAULT)
    old = os.umask(0o077)
    os.close(os.open(plain / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir(plain / "dir", 0o777)
    os.umask(old)
    with stack.open() as view:
        # With a default ACL the umask has no say.
        by = caller(1000, 1000, 0o077)
        view.create("d/file", b"", 0o666, by)
        view.mkdir("d/dir", 0o777, by)
        for name in ("file", "dir"):
            for kind_of_acl in ("access", "default"):
                acl = f"system.posix_acl_{kind_of_acl}"
                wanted = value(lambda acl=acl, name=name: os.getxattr(plain / name, acl))  # type: ignore[misc]
                got = value(lambda acl=acl, name=name: view.getxattr(f"d/{name}", acl))  # type: ignore[misc]
                assert got == wanted
            assert view.stat(f"d/{name}").st_mode == (plain / name).stat().st_mode
    assert stack.work_names() == []


def test_acl_of_work_does_not_leak(stack: Stack) -> None:
    """A default ACL on the work directory is nobody's business."""
    stack.layers({"x": {"hidden": ""}, "f": "f", "low": {}}, upper={"x": WHITEOUT})
    os.setxattr(stack.work, "system.posix_acl_default", DEFAULT)
    (stack.work / "work").mkdir()
    with stack.open() as view:
        view.mkdir("x", 0o755)
        view.chmod("f", 0o640)
        view.create("low/n")
    for name in ("x", "f", "low"):
        assert not [x for x in os.listxattr(stack.upper / name) if "acl" in x]
    assert stat.S_IMODE((stack.upper / "x").stat().st_mode) == 0o755


def test_unprivileged_daemon_makes_files_for_its_own_user_only(stack: Stack) -> None:
    stack.layers({"pad": ""})
    with stack.open() as view:
        view.union.fs.identity.privileged = False
        view.create("mine")
        with pytest.raises(PermissionError):
            view.create("theirs", caller=caller(1000))
    assert disk(stack.upper) == {"mine": "file ''"}


def test_create_that_cannot_be_opened_counts_no_lookup(stack: Stack) -> None:
    stack.layers({"pad": ""})
    with stack.open() as view:
        with pytest.raises(OSError):
            view.union.create(1, b"x" * 256, 0o644, os.O_RDWR, ROOT)
        assert view.union.stats()["inodes"] == 1
        assert view.union.stats()["open_files"] == 0


def test_failed_creation_leaves_nothing(stack: Stack) -> None:
    """The filesystem refuses: nothing in upper, nothing in work, the whiteout still there."""
    stack.layers({"x": "hidden"}, upper={"x": WHITEOUT})
    with stack.open() as view:
        with pytest.raises(OSError) as failure:
            view.symlink("t" * 5000, "x")
        assert failure.value.errno == errno.ENAMETOOLONG
        assert not view.exists("x")
    assert disk(stack.upper) == {"x": "whiteout"}
    assert stack.work_names() == []


@needs_overlayfs
def test_opaque_is_a_mark_and_no_content(stack: Stack) -> None:
    stack.layers({"x": {"hidden": ""}})
    with stack.open() as view:
        view.unlink("x/hidden")
        view.rmdir("x")
        view.mkdir("x")
        assert view.listxattr("x") == []
        with pytest.raises(OSError):
            view.getxattr("x", "trusted.overlay.opaque")
    assert marks(stack.upper / "x") == {"opaque": b"y"}
