"""What a request says about its caller beyond user and group: contexts for new objects, a group, set-ids."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.rig import ROOT, USER, Stack, View
from tests.overlay.test_copy_up import DEFAULT
from tests.overlay.test_privileges import MODES
from tests.overlay.trees import WHITEOUT, disk, file, marks
from unionfs.linux.fileattr import statx
from unionfs.overlay.cred import Caller
from unionfs.overlay.wait import complete

LABEL = "security.label"
CONTEXTS = ((LABEL.encode(), b"system_u:object_r:test_t"), (b"security.other", b"\0x"))


def labelled(uid: int = 0, gid: int = 0, umask: int = 0) -> Caller:
    return Caller(uid, gid, 0, umask, contexts=CONTEXTS)


Make = Callable[[View, str, Caller], object]
MAKE: dict[str, Make] = {
    "create": lambda view, path, who: view.create(path, b"new", 0o666, who),
    "mkdir": lambda view, path, who: view.mkdir(path, 0o777, who),
    "symlink": lambda view, path, who: view.symlink("to", path, who),
    "fifo": lambda view, path, who: view.mknod(path, stat.S_IFIFO | 0o666, 0, who),
    "device": lambda view, path, who: view.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5), who),
}


def shown(path: Path) -> tuple[object, ...]:
    """All of an object but its contexts."""
    st = path.lstat()
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("security.")]
    return st.st_mode, st.st_uid, st.st_gid, st.st_rdev, sorted(names), marks(path)


@pytest.mark.parametrize("where", ["plain", "whiteout", "merged", "group", "acl"])
@pytest.mark.parametrize("what", MAKE)
def test_contexts(stack: Stack, what: str, where: str) -> None:
    """A labelled object differs from one made without contexts by nothing else."""
    gone = {"x": WHITEOUT, "twin": WHITEOUT}
    there = {"x": "lower", "twin": "lower"}
    stack.layers(
        {"whiteout": there, "merged": {"low": ""}},
        upper={"plain": {}, "whiteout": gone, "merged": {}, "group": {}, "acl": {}},
    )
    os.chown(stack.upper / "group", 0, 77)
    os.chmod(stack.upper / "group", 0o2777)
    os.setxattr(stack.upper / "acl", "system.posix_acl_default", DEFAULT)
    with stack.open() as view:
        MAKE[what](view, f"{where}/x", labelled(5, 6, 0o027))
        MAKE[what](view, f"{where}/twin", Caller(5, 6, 0, 0o027))
        for name, value in CONTEXTS:
            assert view.getxattr(f"{where}/x", name.decode()) == value
        assert stack.work_names() in ([], ["#1"])
    ours, twin = stack.upper / where / "x", stack.upper / where / "twin"
    assert shown(ours) == shown(twin)
    assert LABEL not in os.listxattr(twin, follow_symlinks=False)


@pytest.mark.parametrize("what", MAKE)
def test_contexts_are_there_from_the_start(stack: Stack, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Whoever sees the name sees the label: a fault in setting it leaves no object."""
    stack.layers({"d": {}})
    true_setxattr = os.setxattr

    def setxattr(path: bytes | int, name: str | bytes, *rest: object, **more: object) -> None:
        if os.fsencode(name) == CONTEXTS[1][0]:
            assert os.listdir(stack.upper / "d") == []
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true_setxattr(path, name, *rest, **more)  # type: ignore[arg-type]

    with stack.open() as view:
        monkeypatch.setattr(os, "setxattr", setxattr)
        with pytest.raises(OSError) as failure:
            MAKE[what](view, "d/x", labelled())
        assert failure.value.errno == errno.ENOSPC
        assert not view.exists("d/x")
        assert stack.work_names() == []
    assert disk(stack.upper / "d") == {}


def test_contexts_of_a_nameless_file(stack: Stack) -> None:
    stack.layers({})
    with stack.open() as view:
        inode, _, handle = view.union.tmpfile(view.ino(""), 0o600, os.O_RDWR, labelled())
        assert view.union.getxattr(inode.ino, LABEL.encode()) == CONTEXTS[0][1]
        complete(view.union.link, inode.ino, *view.at("f"))
        view.known[inode.ino] += 2
        view.union.release(handle)
    assert os.getxattr(stack.upper / "f", LABEL) == CONTEXTS[0][1]


def test_contexts_on_a_filesystem_without_them(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the label of everything is what the mount says; the object is made all the same."""

    def setxattr(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    stack.layers({})
    with stack.open() as view:
        monkeypatch.setattr(os, "setxattr", setxattr)
        view.create("f", b"data", 0o644, labelled())
        assert view.read("f") == b"data"


# --- setgid at creation ----------------------------------------------------------------------------

GRANTED = [
    # mode, the directory's, caller: what the new file has (mode_strip_sgid())
    (0o2775, 0o2777, Caller(1000, 1000, 0, 0), 0o775),
    (0o2775, 0o2777, Caller(1000, 1000, 0, 0, group=77), 0o2775),
    (0o2775, 0o2777, Caller(1000, 77, 0, 0), 0o2775),
    (0o2775, 0o2777, Caller(1000, 1000, 0, 0, group=78), 0o775),
    (0o2775, 0o2777, ROOT, 0o2755),
    (0o2765, 0o2777, Caller(1000, 1000, 0, 0), 0o2765),
    (0o2775, 0o777, Caller(1000, 1000, 0, 0), 0o2775),
    (0o4775, 0o2777, Caller(1000, 1000, 0, 0), 0o4775),
]


@pytest.mark.parametrize("how", ["create", "mknod", "tmpfile", "over a whiteout"])
@pytest.mark.parametrize(("mode", "parent", "who", "granted"), GRANTED)
def test_setgid_is_for_members(
    stack: Stack, how: str, mode: int, parent: int, who: Caller, granted: int
) -> None:
    stack.layers({"d": {"f": "lower"} if how == "over a whiteout" else {}})
    os.chown(stack.lowers[0] / "d", 0, 77)
    os.chmod(stack.lowers[0] / "d", parent)
    with stack.open() as view:
        if how == "over a whiteout":
            view.unlink("d/f")
        if how == "mknod":
            view.mknod("d/f", stat.S_IFREG | mode, 0, who)
        elif how == "tmpfile":
            inode, _, handle = view.union.tmpfile(view.ino("d"), mode, os.O_RDWR, who)
            complete(view.union.link, inode.ino, *view.at("d/f"))
            view.known[inode.ino] += 2
            view.union.release(handle)
        else:
            inode, _, handle = complete(view.union.create, *view.at("d/f"), mode, os.O_WRONLY, who)
            view.known[inode.ino] += 1
            view.union.release(handle)
    st = (stack.upper / "d/f").stat()
    assert oct(stat.S_IMODE(st.st_mode)) == oct(granted)
    assert st.st_gid == (77 if parent & stat.S_ISGID else who.gid)


# --- what the kernel says about set-ids ------------------------------------------------------------


@pytest.mark.parametrize("how", ["write", "truncate", "truncate by handle", "open with O_TRUNC"])
@pytest.mark.parametrize("before", MODES, ids=oct)
@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("who", [ROOT, USER], ids=["root", "user"])
def test_kill(stack: Stack, before: int, how: str, kill: bool, who: Caller) -> None:
    """HANDLE_KILLPRIV_V2: the kernel knows who writes, which for a write is not always who has opened."""
    stack.layers({"f": file("data", mode=before, owner=(0, 77))})
    with stack.open() as view:
        ino = view.ino("f")
        if how == "write":
            with view.opened("f", os.O_WRONLY, who) as handle:
                assert handle.write(0, memoryview(b"D"), kill) == 1
        elif how == "truncate":
            view.change("f", size=2, caller=who, kill=kill)
        elif how == "truncate by handle":
            with view.opened("f", os.O_WRONLY, who) as handle:
                view.change("f", size=2, caller=who, handle=handle, kill=kill)
        else:
            flags = os.O_WRONLY | os.O_TRUNC
            view.union.release(complete(view.union.open_file, ino, flags, who, kill))
        assert oct(stat.S_IMODE(view.stat("f").st_mode)) == oct(MODES[before] if kill else before)


@pytest.mark.parametrize("before", MODES, ids=oct)
def test_before_a_write_past_the_daemon(stack: Stack, before: int) -> None:
    """What is left of file_remove_privs(): a change of nothing, by whoever is about to write."""
    stack.layers({"f": file("data", mode=before, owner=(0, 77))})
    with stack.open() as view:
        st = view.change("f", caller=USER, writing=True)
        assert oct(stat.S_IMODE(st.st_mode)) == oct(MODES[before])
        assert view.stat("f") == st


@pytest.mark.parametrize("writing", [False, None])
@pytest.mark.parametrize(
    ("mode", "who", "after"),
    [
        (0o4757, USER, 0o757),
        (0o4775, USER, None),
        (0o4775, Caller(1000, 77, 0, 0), 0o775),
        (0o4755, Caller(1000, 77, 0, 0), None),
    ],
)
def test_who_may_write_may_strip(
    stack: Stack, mode: int, who: Caller, after: int | None, writing: bool | None
) -> None:
    """A chown that leaves both ids and what comes before a write may look alike; else it is the owner's."""
    stack.layers({"f": file("data", mode=mode, owner=(0, 77))})
    with stack.open() as view:
        try:
            found: int | None = stat.S_IMODE(view.change("f", caller=who, writing=writing).st_mode)
        except PermissionError:
            found = None
        assert found == (after if writing is None else None)
    assert (stack.upper / "f").exists() == (found is not None)


def test_a_chown_and_what_the_kernel_says_with_it(stack: Stack) -> None:
    """Every chown comes with it; what goes is what chown(2) takes away, no more: root may keep setgid."""
    stack.layers({"f": file("data", mode=0o2745)})
    twin = stack.base / "twin"
    twin.touch()
    twin.chmod(0o2745)
    os.chown(twin, 5, -1)
    with stack.open() as view:
        assert view.change("f", uid=5, kill=True).st_mode == twin.stat().st_mode


# --- birth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_birth_time(stack: Stack, kind: str) -> None:
    """That of the topmost object, as overlayfs says: a copy-up is a birth."""
    stack.layers({"file": "data", "directory": {}})
    os.symlink("x", stack.lowers[0] / "symlink")
    with stack.open() as view:
        lower = view.union.statx(view.ino(kind))
        assert lower.btime == _birth(stack.lowers[0] / kind)
        assert lower.stat == view.stat(kind)
        assert lower.inode.ino == view.ino(kind)
        time.sleep(0.02)  # the filesystem's clock ticks every few milliseconds
        view.change(kind, uid=5)
        upper = view.union.statx(view.ino(kind))
        assert upper.btime == _birth(stack.upper / kind)
        assert lower.btime is not None
        assert upper.btime is not None
        assert upper.btime > lower.btime


def _birth(path: Path) -> tuple[int, int]:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        btime = statx(fd).btime
    finally:
        os.close(fd)
    assert btime is not None
    return btime
