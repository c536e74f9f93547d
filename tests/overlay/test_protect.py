"""Immutable and append-only objects: each operation answers what kernel overlayfs answers on the same layers.

The flags of lowers (chattr), and those that a union has kept in `overlay.protattr`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.overlay.rig import ROOT, USER, Stack, View, caller
from tests.overlay.trees import Tree, directory, disk, file, marks
from tests.support.mounts import needs_overlayfs, overlayfs
from unionfs.linux import fileattr
from unionfs.linux.fileattr import FS_APPEND_FL, FS_IMMUTABLE_FL, FS_NOATIME_FL, FS_SYNC_FL
from unionfs.linux.syscalls import RENAME_EXCHANGE, renameat2
from unionfs.overlay.wait import complete

FS_NODUMP_FL = 0x40
_PROT = FS_APPEND_FL | FS_IMMUTABLE_FL
LETTERS = {
    "i": FS_IMMUTABLE_FL,
    "a": FS_APPEND_FL,
    "S": FS_SYNC_FL,
    "A": FS_NOATIME_FL,
    "d": FS_NODUMP_FL,
}


def flags_of(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return fileattr.get_flags(fd)
    finally:
        os.close(fd)


def chattr(path: Path, letters: str) -> None:
    """Exactly these flags, of those that the tests use."""
    fd = os.open(path, os.O_RDONLY)
    try:
        now = fileattr.get_flags(fd) & ~sum(LETTERS.values())
        fileattr.set_flags(fd, now | sum(LETTERS[letter] for letter in letters))
    finally:
        os.close(fd)


def lsattr(flags: int) -> str:
    return "".join(letter for letter, flag in LETTERS.items() if flags & flag)


@contextmanager
def flagged(root: Path, flags: dict[str, str]) -> Iterator[None]:
    """These flags while the context lasts; without them the tree could not be removed."""
    for name, letters in flags.items():
        chattr(root / name, letters)
    try:
        yield
    finally:
        for name in flags:
            chattr(root / name, "")


TREE: Tree = {
    "f": "data",
    "other": "other",
    "d": {"in": "in", "sub": {}},
    "e": {"in": "e"},
}


@dataclass(frozen=True)
class Op:
    """One operation, on a real mount and on a union without a mount."""

    real: Callable[[Path], object]
    ours: Callable[[View], object]


def _real_open(flags: int, name: str = "f") -> Callable[[Path], None]:
    return lambda merged: os.close(os.open(merged / name, flags))


def _our_open(flags: int, name: str = "f") -> Callable[[View], None]:
    return lambda view: view.union.release(view.open(name, flags))


def _tmpfile(view: View, path: str) -> None:
    inode, _, handle = view.union.tmpfile(view.ino(path), 0o600, os.O_RDWR, ROOT)
    view.union.release(handle)
    view.union.forget(inode.ino, 1)


def _at(merged: Path, old: str, new: str, flags: int) -> None:
    where = os.open(merged, os.O_PATH)
    try:
        renameat2(where, old.encode(), where, new.encode(), flags)
    finally:
        os.close(where)


WRITE = os.O_WRONLY
OPS = {
    "open to read": Op(_real_open(os.O_RDONLY), _our_open(os.O_RDONLY)),
    "open to write": Op(_real_open(WRITE), _our_open(WRITE)),
    "open to read and write": Op(_real_open(os.O_RDWR), _our_open(os.O_RDWR)),
    "open to append": Op(_real_open(WRITE | os.O_APPEND), _our_open(WRITE | os.O_APPEND)),
    "open to append, cut": Op(
        _real_open(WRITE | os.O_APPEND | os.O_TRUNC), _our_open(WRITE | os.O_APPEND | os.O_TRUNC)
    ),
    "open to read, cut": Op(_real_open(os.O_TRUNC), _our_open(os.O_TRUNC)),
    "truncate": Op(lambda m: os.truncate(m / "f", 2), lambda v: v.change("f", size=2)),
    "chmod": Op(lambda m: os.chmod(m / "f", 0o600), lambda v: v.chmod("f", 0o600)),
    "chown": Op(lambda m: os.chown(m / "f", 1, -1), lambda v: v.change("f", uid=1)),
    "chgrp": Op(lambda m: os.chown(m / "f", -1, 1), lambda v: v.change("f", gid=1)),
    "utimes": Op(lambda m: os.utime(m / "f", ns=(1, 1)), lambda v: v.change("f", atime_ns=1, mtime_ns=1)),
    "touch": Op(
        lambda m: os.utime(m / "f"),
        lambda v: v.change("f", atime_ns=1, mtime_ns=1, touch=True),
    ),
    "setxattr": Op(lambda m: os.setxattr(m / "f", "user.x", b""), lambda v: v.setxattr("f", "user.x", b"")),
    "set trusted": Op(
        lambda m: os.setxattr(m / "f", "trusted.x", b""), lambda v: v.setxattr("f", "trusted.x", b"")
    ),
    "removexattr": Op(lambda m: os.removexattr(m / "f", "user.no"), lambda v: v.removexattr("f", "user.no")),
    "unlink": Op(lambda m: os.unlink(m / "f"), lambda v: v.unlink("f")),
    "link": Op(lambda m: os.link(m / "f", m / "new"), lambda v: v.link("f", "new")),
    "link into": Op(lambda m: os.link(m / "other", m / "d/new"), lambda v: v.link("other", "d/new")),
    "rename": Op(lambda m: os.rename(m / "f", m / "new"), lambda v: v.rename("f", "new")),
    "rename over": Op(lambda m: os.rename(m / "other", m / "f"), lambda v: v.rename("other", "f")),
    "rename into": Op(lambda m: os.rename(m / "other", m / "d/o"), lambda v: v.rename("other", "d/o")),
    "rename out": Op(lambda m: os.rename(m / "d/in", m / "in"), lambda v: v.rename("d/in", "in")),
    "rename within": Op(lambda m: os.rename(m / "d/in", m / "d/i"), lambda v: v.rename("d/in", "d/i")),
    "exchange": Op(
        lambda m: _at(m, "other", "f", RENAME_EXCHANGE), lambda v: v.rename("other", "f", RENAME_EXCHANGE)
    ),
    "exchange with one in it": Op(
        lambda m: _at(m, "other", "d/in", RENAME_EXCHANGE),
        lambda v: v.rename("other", "d/in", RENAME_EXCHANGE),
    ),
    "create in": Op(_real_open(WRITE | os.O_CREAT, "d/new"), lambda v: v.create("d/new")),
    "mkdir in": Op(lambda m: os.mkdir(m / "d/new"), lambda v: v.mkdir("d/new")),
    "mkdir of one that is": Op(lambda m: os.mkdir(m / "d/in"), lambda v: v.mkdir("d/in")),
    "mknod in": Op(lambda m: os.mknod(m / "d/new", stat.S_IFIFO), lambda v: v.mknod("d/new", stat.S_IFIFO)),
    "symlink in": Op(lambda m: os.symlink("x", m / "d/new"), lambda v: v.symlink("x", "d/new")),
    "tmpfile in": Op(_real_open(os.O_RDWR | os.O_TMPFILE, "d"), lambda v: _tmpfile(v, "d")),
    "unlink in": Op(lambda m: os.unlink(m / "d/in"), lambda v: v.unlink("d/in")),
    "rmdir in": Op(lambda m: os.rmdir(m / "d/sub"), lambda v: v.rmdir("d/sub")),
    "unlink of none": Op(lambda m: os.unlink(m / "d/no"), lambda v: v.unlink("d/no")),
    "write to one in it": Op(_real_open(WRITE, "d/in"), _our_open(WRITE, "d/in")),
    "chmod of one in it": Op(lambda m: os.chmod(m / "d/in", 0o600), lambda v: v.chmod("d/in", 0o600)),
    "rmdir": Op(lambda m: os.rmdir(m / "d"), lambda v: v.rmdir("d")),
    "chmod of the directory": Op(lambda m: os.chmod(m / "d", 0o700), lambda v: v.chmod("d", 0o700)),
    "rename over a full one": Op(lambda m: os.rename(m / "e", m / "d"), lambda v: v.rename("e", "d")),
}


def outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


@needs_overlayfs
@pytest.mark.parametrize("where", ["lower", "upper"])
@pytest.mark.parametrize("letters", ["", "i", "a", "ia"])
@pytest.mark.parametrize("op", OPS)
def test_as_overlayfs_answers(stack: Stack, base: Path, op: str, letters: str, where: str) -> None:
    """The file and the directory carry the flags, one after the other: in a lower, or kept by a union."""
    flags = {"f": letters, "d": letters}
    stack.layers(TREE)
    twin = Stack(_directory(base / "twin"))
    twin.lowers = stack.lowers
    on_lower = flags if where == "lower" else {}
    with flagged(stack.lowers[0], on_lower):
        options = ("redirect_dir=on", "volatile")
        with overlayfs(twin.lowers, twin.upper, twin.work, twin.merged, options=options) as merged:
            if where == "upper":
                for name in flags:
                    chattr(merged / name, letters)
            theirs = outcome(lambda: OPS[op].real(merged))
        with stack.open(redirect_dir="on") as view:
            if where == "upper":
                for name in flags:
                    set_flags(view, name, letters)
            ours = outcome(lambda: OPS[op].ours(view))
        assert ours == theirs
        if ours == "EPERM" and where == "lower":
            assert disk(stack.upper) == {}, "nothing was copied up for an operation that is refused"


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def set_flags(view: View, path: str, letters: str, who: object = None) -> None:
    ino = view.ino(path)
    now = complete(view.union.get_flags, ino) & ~sum(LETTERS.values())
    wanted = now | sum(LETTERS[letter] for letter in letters)
    complete(view.union.set_flags, ino, wanted, who or ROOT)  # type: ignore[arg-type]


def shown(view: View, path: str) -> str:
    return lsattr(view.union.get_flags(view.ino(path)))


# --- open handles ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letters", "allowed"),
    [
        ("", {"write", "truncate", "allocate", "keep size", "punch", "copy"}),
        ("i", {"write", "truncate"}),
        ("a", {"write", "allocate", "keep size", "copy"}),
    ],
)
@pytest.mark.parametrize("how", ["write", "truncate", "allocate", "keep size", "punch", "copy"])
def test_handles_that_were_opened_before(stack: Stack, how: str, letters: str, allowed: set[str]) -> None:
    """What the VFS looks at on an open file: for most things, the open was the permission."""
    stack.layers({"f": "data", "g": "more"})
    with stack.open() as view, view.opened("f", os.O_RDWR) as handle, view.opened("g") as other:
        set_flags(view, "f", letters)
        acts: dict[str, Callable[[], object]] = {
            "write": lambda: handle.write(4, b"more"),
            "truncate": lambda: view.change("f", size=2, handle=handle),
            "allocate": lambda: view.union.allocate(handle, 0, 0, 8192, ROOT),
            "keep size": lambda: view.union.allocate(handle, 1, 0, 8192, ROOT),
            "punch": lambda: view.union.allocate(handle, 3, 0, 4096, ROOT),
            "copy": lambda: view.copy_range(other, 0, handle, 4, 4, ROOT),
        }
        assert outcome(acts[how]) == ("done" if how in allowed else "EPERM")
        set_flags(view, "f", "")


@pytest.mark.parametrize("handle", [True, False])
def test_times_that_the_kernel_has_kept(stack: Stack, handle: bool) -> None:
    """Of its writeback cache: it comes by an open file, which a transport may not have at hand."""
    stack.layers({"f": "data"})
    with stack.open() as view, view.opened("f", os.O_RDWR) as opened:
        set_flags(view, "f", "i")
        by = {"handle": opened} if handle else {"by_handle": True}
        assert view.change("f", mtime_ns=5, **by).st_mtime_ns == 5
        assert outcome(lambda: view.change("f", mtime_ns=6)) == "EPERM"
        set_flags(view, "f", "")


# --- flags -----------------------------------------------------------------------------------------


@needs_overlayfs
@pytest.mark.parametrize("metacopy", [False, True])
@pytest.mark.parametrize("letters", ["", "i", "a", "ia", "S", "A", "d", "SAd", "aS"])
def test_copy_up_of_flags(stack: Stack, base: Path, letters: str, metacopy: bool) -> None:
    """What upper gets, and what is shown before, after, and after a remount; kernel overlayfs agrees."""
    stack.layers({"f": "data", "d": {"f": "x"}})
    names = ("f", "d")
    with flagged(stack.lowers[0], dict.fromkeys(names, letters)):
        with stack.open(metacopy=metacopy) as view:
            for name in names:
                assert shown(view, name) == letters
                assert set(lsattr(attributes(view, name))) == set(letters) & {"i", "a"}
            # What brings up a file that may not be changed: setting the flags that it has.
            for name in names:
                set_flags(view, name, letters)
                assert shown(view, name) == letters
                assert set(lsattr(attributes(view, name))) == set(letters) & {"i", "a"}
            view.forget_all()
            for name in names:
                assert shown(view, name) == letters
        prot = "".join(letter for letter in "ai" if letter in letters).encode()
        for name in names:
            assert lsattr(flags_of(stack.upper / name)) == "".join(x for x in letters if x not in "ia")
            assert marks(stack.upper / name).get("protattr", b"") == prot
        with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged, options=["volatile"]) as merged:
            if not metacopy:
                assert {lsattr(flags_of(merged / name)) for name in names} == {letters}


def attributes(view: View, path: str) -> int:
    found = view.union.statx(view.ino(path))
    assert found.attributes_mask & fileattr.STATX_ATTR_IMMUTABLE
    assert found.attributes_mask & fileattr.STATX_ATTR_APPEND
    return fileattr.protection_of(found.attributes)


@pytest.mark.parametrize("letters", ["a", "S", "A", "aSA"])
def test_what_appending_copies_up(stack: Stack, letters: str) -> None:
    """Of the lower's flags overlayfs copies four; the others are its filesystem's own."""
    stack.layers({"f": "data"})
    with flagged(stack.lowers[0], {"f": letters + "d"}), stack.open() as view:
        with view.opened("f", os.O_WRONLY | os.O_APPEND) as handle:
            handle.write(4, b"more")
        assert shown(view, "f") == letters
    assert (stack.upper / "f").read_bytes() == b"datamore"


def test_parents_keep_their_flags(stack: Stack) -> None:
    stack.layers({"d": {"e": {"f": "x"}}})
    with flagged(stack.lowers[0], {"d": "i", "d/e": "aS"}), stack.open() as view:
        view.chmod("d/e/f", 0o600)
        assert (shown(view, "d"), shown(view, "d/e"), shown(view, "d/e/f")) == ("i", "aS", "")
        assert outcome(lambda: view.create("d/new")) == "EPERM"
        assert outcome(lambda: view.create("d/e/new")) == "done"
    assert marks(stack.upper / "d")["protattr"] == b"i"
    assert marks(stack.upper / "d/e")["protattr"] == b"a"


def test_flags_come_and_go(stack: Stack) -> None:
    stack.layers({"f": "data"})
    with stack.open() as view:
        set_flags(view, "f", "i")
        stale = view.union.take_attrs_to_invalidate()
        assert stale == [view.ino(""), view.ino("f")], "their change times are other ones"
        assert outcome(lambda: view.write("f", b"x")) == "EPERM"
        set_flags(view, "f", "a")
        assert marks(stack.upper / "f")["protattr"] == b"a"
        set_flags(view, "f", "")
        assert "protattr" not in marks(stack.upper / "f")
        view.write("f", b"x")
    assert (stack.upper / "f").read_bytes() == b"xata"


@pytest.mark.parametrize("value", [b"x", b"ix", b"i" * 33, b""])
def test_a_malformed_mark_protects_nothing(stack: Stack, value: bytes) -> None:
    stack.layers(
        {"pad": ""}, upper={"f": file("data", protattr=value.decode()), "d": directory(protattr="x")}
    )
    with stack.open() as view:
        assert shown(view, "f") == shown(view, "d") == ""
        view.write("f", b"x")


def test_with_userxattr(stack: Stack) -> None:
    stack.layers({"f": "data"})
    with stack.open(userxattr=True) as view:
        set_flags(view, "f", "i")
        assert outcome(lambda: view.write("f", b"x")) == "EPERM"
    assert marks(stack.upper / "f", prefix="user.overlay.")["protattr"] == b"i"
    assert marks(stack.upper / "f") == {}


@pytest.mark.parametrize(
    ("who", "before", "letters", "answer"),
    [
        (ROOT, "", "i", "done"),
        (USER, "", "i", "EPERM"),
        (caller(5), "", "d", "done"),
        (caller(5), "", "i", "EPERM"),
        (caller(5), "a", "", "EPERM"),
        (caller(5), "a", "ad", "done"),
        (USER, "", "d", "EPERM"),
    ],
)
def test_who_may_set_flags(stack: Stack, who: object, before: str, letters: str, answer: str) -> None:
    stack.layers({"f": file("data", owner=(5, 5))})
    with stack.open() as view:
        set_flags(view, "f", before)
        assert outcome(lambda: set_flags(view, "f", letters, who)) == answer
        assert shown(view, "f") == (letters if answer == "done" else before)


def test_fsxattr(stack: Stack) -> None:
    """The other door to the same flags."""
    stack.layers({"f": "data"})
    with stack.open() as view:
        ino = view.ino("f")
        value = bytearray(view.union.get_fsxattr(ino))
        assert len(value) == fileattr.FSXATTR_SIZE
        value[0] |= fileattr.FS_XFLAG_IMMUTABLE
        complete(view.union.set_fsxattr, ino, bytes(value), ROOT)
        assert shown(view, "f") == "i"
        assert view.union.get_fsxattr(ino)[0] & fileattr.FS_XFLAG_IMMUTABLE
        assert outcome(lambda: view.write("f", b"x")) == "EPERM"
        value[0] ^= fileattr.FS_XFLAG_IMMUTABLE | fileattr.FS_XFLAG_APPEND
        complete(view.union.set_fsxattr, ino, bytes(value), ROOT)
        assert shown(view, "f") == "a"
        assert marks(stack.upper / "f")["protattr"] == b"a"
        assert outcome(lambda: view.union.set_fsxattr(ino, b"short", ROOT)) == "EINVAL"
    assert flags_of(stack.upper / "f") & _PROT == 0


def test_objects_without_flags(stack: Stack) -> None:
    stack.layers({})
    with stack.open() as view:
        ino = view.mknod("p", stat.S_IFIFO | 0o600)
        assert outcome(lambda: view.union.get_flags(ino)) == "ENOTTY"
        assert outcome(lambda: view.union.set_flags(ino, 0, ROOT)) == "ENOTTY"
        assert outcome(lambda: view.union.get_fsxattr(ino)) == "ENOTTY"


def test_read_only(stack: Stack) -> None:
    stack.layers({"f": "data"}, {})
    with flagged(stack.lowers[0], {"f": "i"}), stack.open(writable=False) as view:
        assert shown(view, "f") == "i"
        for act in (
            lambda: view.union.set_flags(view.ino("f"), 0, ROOT),
            lambda: view.union.release(view.open("f", os.O_WRONLY)),
            lambda: view.chmod("f", 0o600),
            lambda: view.setxattr("f", "user.x", b""),
        ):
            assert outcome(act) == "EROFS"


def test_a_metacopy_that_gets_its_data_keeps_its_flags(stack: Stack) -> None:
    stack.layers({"f": "data"})
    with stack.open(metacopy=True) as view:
        set_flags(view, "f", "adSA")
        assert "metacopy" in marks(stack.upper / "f")
        with view.opened("f", os.O_WRONLY | os.O_APPEND) as handle:
            handle.write(4, b"more")
        assert shown(view, "f") == "aSAd"
        assert "metacopy" not in marks(stack.upper / "f")
        view.forget_all()
        assert shown(view, "f") == "aSAd"
    assert (stack.upper / "f").read_bytes() == b"datamore"
