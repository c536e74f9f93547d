# ruff: noqa: E501 (a table, one operation a line)
"""The operations of the union into which faults are planted: each with its options and what it starts from.

All act on one tree, which has every kind of object in each place where it can lie. What an operation opens it
closes again, also when it fails: as a kernel does, which releases what it has got.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.overlay.rig import ROOT, Stack, View, steps
from tests.overlay.trees import WHITEOUT, Tree, directory, file, node, symlink
from unionfs.linux.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE
from unionfs.overlay.owners import acl
from unionfs.overlay.wait import complete

LARGE = b"0123456789abcdef" * 8_704

_TOP: Tree = {
    "f": file("lower data", xattrs={"user.x": b"1"}),
    "suid": file("program", mode=0o4755),
    "large": file(LARGE),
    "link": symlink("f"),
    "fifo": node(stat.S_IFIFO | 0o600),
    "device": node(stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "socket": node(stat.S_IFSOCK | 0o600),
    "d": {"a": "top", "sub": {"x": "deep"}},
    "e": {},
    "hard1": "one inode",
}
_BOTTOM: Tree = {
    "d": {"a": "hidden", "b": "below"},
    "w": "deleted",
    "wd": {"old": "deleted"},
    "full": {"in": "full"},
}
_UPPER: Tree = {
    "u": file("upper data", xattrs={"user.x": b"1"}),
    "w": WHITEOUT,
    "wd": WHITEOUT,
    "ud": {"v": "upper"},
    "ue": {},
    "full": directory({"in": WHITEOUT}),
}


def layers(stack: Stack) -> None:
    """Fill the layers: a lower file with two names among them."""
    stack.layers(_TOP, _BOTTOM, upper=_UPPER)
    top = stack.lowers[0]
    st = os.stat(top)
    os.link(top / "hard1", top / "hard2")
    os.utime(top, ns=(st.st_atime_ns, st.st_mtime_ns))


@dataclass(frozen=True)
class Operation:
    """`run` is what meets the fault; `first` what has happened before, without any."""

    name: str
    run: Callable[[View], object]
    options: dict[str, Any] = field(default_factory=dict)
    first: Callable[[View], object] = lambda view: None
    reads: bool = False
    """Changes nothing, so that it can be done twice."""


def _create(path: str, flags: int = os.O_RDWR) -> Callable[[View], object]:
    def run(view: View) -> None:
        inode, _, handle = complete(view.union.create, *view.at(path), 0o644, flags, ROOT)
        view.known[inode.ino] += 1
        view.union.release(handle)

    return run


def _tmpfile(path: str) -> Callable[[View], object]:
    def run(view: View) -> None:
        inode, _, handle = complete(view.union.tmpfile, view.ino(""), 0o644, os.O_RDWR, ROOT)
        view.known[inode.ino] += 1
        try:
            complete(view.union.link, inode.ino, *view.at(path))
            view.known[inode.ino] += 1
        finally:
            view.union.release(handle)

    return run


def _write(path: str, data: bytes) -> Callable[[View], object]:
    def run(view: View) -> None:
        with view.opened(path, os.O_WRONLY) as handle:
            at = 0
            while at < len(data):
                at += handle.write(at, data[at:])

    return run


def _chmod(path: str) -> Callable[[View], object]:
    return lambda view: view.chmod(path, 0o750)


def _chown(path: str) -> Callable[[View], object]:
    return lambda view: view.change(path, uid=7, gid=8)


def _read_all(view: View) -> None:
    for path in ("f", "u", "d/b", "ud/v", "large"):
        assert view.read(path)


def _know_both(view: View) -> None:
    """Without an index, only a mount that has seen both names of a lower file knows them as one."""
    view.inode("hard1")
    view.inode("hard2")


def _allocate(view: View) -> None:
    with view.opened("f", os.O_RDWR) as handle:
        complete(view.union.allocate, handle, 0, 0, 8192, ROOT)


def _copy_range(view: View) -> None:
    with view.opened("large") as source, view.opened("u", os.O_RDWR) as target:
        at = 0
        while at < 4096:
            at += view.copy_range(source, at, target, at, 4096 - at)


def _access_acl() -> bytes:
    return (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, perm, who in (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 1000),
            (4, 4, 0xFFFFFFFF),
            (16, 4, 0xFFFFFFFF),
            (32, 4, 0xFFFFFFFF),
        )
    )


def _set_acl(path: str, name: str = acl.ACCESS) -> Callable[[View], object]:
    return lambda view: view.setxattr(path, name, _access_acl())


def _operation(name: str, run: Callable[[View], object], **more: Any) -> Operation:
    reads = more.pop("reads", False)
    first = more.pop("first", lambda view: None)
    return Operation(name, run, more, first, reads)


def _names() -> list[Operation]:
    moved = {"redirect_dir": "on"}
    plain = [
        _operation("create", _create("new")),
        _operation("create in a lower directory", _create("d/sub/new")),
        _operation("create over a whiteout", _create("w")),
        _operation(
            "create in a directory with a default ACL", _create("d/new"), first=_set_acl("d", acl.DEFAULT)
        ),
        _operation("tmpfile", _tmpfile("new")),
        _operation("mkdir", lambda view: view.mkdir("new")),
        _operation("mkdir in a lower directory", lambda view: view.mkdir("d/new")),
        _operation("mkdir over a whiteout", lambda view: view.mkdir("wd")),
        _operation("symlink", lambda view: view.symlink("target", "new")),
        _operation("symlink over a whiteout", lambda view: view.symlink("target", "w")),
        _operation("mknod", lambda view: view.mknod("new", stat.S_IFCHR | 0o600, os.makedev(1, 5))),
        _operation("link of upper", lambda view: view.link("u", "new")),
        _operation("link of a lower", lambda view: view.link("f", "new")),
        _operation("link over a whiteout", lambda view: view.link("f", "w")),
        _operation("unlink in upper", lambda view: view.unlink("u")),
        _operation("unlink of a lower", lambda view: view.unlink("f")),
        _operation("unlink below", lambda view: view.unlink("d/b")),
        _operation(
            "unlink of one that is copied up", lambda view: view.unlink("f"), first=_write("f", b"new")
        ),
        _operation("unlink of one name", lambda view: view.unlink("hard1"), first=_know_both),
        _operation(
            "unlink of one name that is copied up",
            lambda view: view.unlink("hard1"),
            first=steps(_know_both, _write("hard1", b"N")),
        ),
        _operation("rmdir in upper", lambda view: view.rmdir("ue")),
        _operation("rmdir of a lower", lambda view: view.rmdir("e")),
        _operation("rmdir of one with whiteouts", lambda view: view.rmdir("full")),
        _operation("rename in upper", lambda view: view.rename("u", "new")),
        _operation("rename of a lower", lambda view: view.rename("f", "new")),
        _operation("rename over a lower", lambda view: view.rename("u", "f")),
        _operation("rename over a whiteout", lambda view: view.rename("f", "w")),
        _operation("rename without replacing", lambda view: view.rename("f", "new", RENAME_NOREPLACE)),
        _operation("exchange", lambda view: view.rename("f", "u", RENAME_EXCHANGE)),
        _operation("exchange with a directory", lambda view: view.rename("ud", "f", RENAME_EXCHANGE)),
        _operation("rename of a directory in upper", lambda view: view.rename("ud", "new")),
        _operation("rename of a directory over a whiteout", lambda view: view.rename("ud", "wd")),
        _operation("rename of a directory over one with whiteouts", lambda view: view.rename("ud", "full")),
        _operation("rename of one name", lambda view: view.rename("hard1", "new"), first=_know_both),
    ]
    redirected = [
        _operation("rename of a directory", lambda view: view.rename("d", "new"), **moved),
        _operation("rename into a directory", lambda view: view.rename("d", "ud/new"), **moved),
        _operation("exchange of directories", lambda view: view.rename("d", "e", RENAME_EXCHANGE), **moved),
        _operation("rename of a directory that is copied", lambda view: view.rename("d", "new"),
                   redirect_dir="follow", rename_copy_bytes=1 << 20, rename_copy_files=100),
    ]  # fmt: skip
    return plain + redirected


def _attributes() -> list[Operation]:
    found = []
    found.append(_operation("chmod hard2", lambda view: view.chmod("hard2", 0o750), first=_know_both))
    for kind in ("f", "suid", "large", "fifo", "device", "socket", "d", "d/sub", "d/sub/x", "u"):
        found.append(_operation(f"chmod {kind}", _chmod(kind)))
    for kind in ("f", "suid", "link", "d", "u"):
        found.append(_operation(f"chown {kind}", _chown(kind)))
    return [
        *found,
        _operation("utime", lambda view: view.change("f", atime_ns=10**18, mtime_ns=10**18 + 5)),
        _operation(
            "utime of a symlink", lambda view: view.change("link", atime_ns=10**18, mtime_ns=10**18 + 5)
        ),
        _operation("truncate", lambda view: view.change("large", size=100)),
        _operation("truncate to nothing", lambda view: view.change("suid", size=0)),
        _operation("truncate in upper", lambda view: view.change("u", size=3)),
        _operation("setxattr", lambda view: view.setxattr("f", "user.y", b"value")),
        _operation("setxattr in upper", lambda view: view.setxattr("u", "user.y", b"value")),
        _operation("removexattr", lambda view: view.removexattr("f", "user.x")),
        _operation("removexattr in upper", lambda view: view.removexattr("u", "user.x")),
        _operation("set an ACL", _set_acl("f")),
        _operation("set an ACL in upper", _set_acl("u")),
        _operation("set a default ACL", _set_acl("d", acl.DEFAULT)),
    ]


def _data() -> list[Operation]:
    return [
        _operation("write", _write("f", b"LOWER DATA")),
        _operation("write in upper", _write("u", b"UPPER DATA")),
        _operation("write of a large file", _write("large", b"Z")),
        _operation("write of one name", _write("hard1", b"ONE"), first=_know_both),
        _operation("open to write", lambda view: view.union.release(view.open("f", os.O_RDWR))),
        _operation(
            "open with O_TRUNC", lambda view: view.union.release(view.open("f", os.O_RDWR | os.O_TRUNC))
        ),
        _operation("fallocate", _allocate),
        _operation("copy_file_range", _copy_range),
        _operation("read", _read_all, reads=True),
    ]


def _looking() -> list[Operation]:
    return [
        _operation("lookup", steps(*(lambda view, at=at: view.exists(at) for at in ("d/sub/x", "w", "hard2"))), reads=True),
        _operation("list", steps(*(lambda view, at=at: view.ls(at) for at in ("", "d", "full"))), reads=True),
        _operation("readlink", lambda view: view.readlink("link"), reads=True),
        _operation("listxattr", lambda view: (view.listxattr("f"), view.getxattr("u", "user.x")), reads=True),
        _operation("the whole tree", lambda view: view.tree(), reads=True),
    ]  # fmt: skip


def _forms() -> list[Operation]:
    """Metacopy, redirects of metacopies, index, marks of AUFS."""
    metacopy = {"metacopy": True, "redirect_dir": "on"}
    index = {"index": True}
    aufs = {"whiteouts": "aufs"}
    return [
        _operation("metacopy: chmod", lambda view: view.chmod("f", 0o600), **metacopy),
        _operation("metacopy: rename", lambda view: view.rename("f", "ud/new"), **metacopy),
        _operation("metacopy: link", lambda view: view.link("f", "new"), **metacopy),
        _operation("metacopy: then write", _write("large", b"Z"), first=lambda view: view.chmod("large", 0o600), **metacopy),
        _operation("metacopy: then truncate", lambda view: view.change("large", size=10),
                   first=lambda view: view.chmod("large", 0o600), **metacopy),
        _operation("metacopy: then truncate with links", lambda view: view.change("f", size=0),
                   first=steps(lambda view: view.chmod("f", 0o600), lambda view: view.link("f", "g")), **metacopy),
        _operation("metacopy: then write with links", _write("f", b"Z"),
                   first=steps(lambda view: view.chmod("f", 0o600), lambda view: view.link("f", "g")), **metacopy),
        _operation("index: write", _write("hard1", b"ONE"), **index),
        _operation("index: unlink", lambda view: view.unlink("hard1"), **index),
        _operation("index: unlink of the last", lambda view: view.unlink("hard2"), first=lambda view: view.unlink("hard1"), **index),
        _operation("index: link", lambda view: view.link("hard1", "hard3"), **index),
        _operation("index: rename", lambda view: view.rename("hard1", "new"), **index),
        _operation("index: rename over", lambda view: view.rename("u", "hard1"), **index),
        _operation("index and metacopy: chmod", lambda view: view.chmod("hard1", 0o600), **index, **metacopy),
        _operation("index and metacopy: then write", _write("hard2", b"ONE"),
                   first=lambda view: view.chmod("hard1", 0o600), **index, **metacopy),
        _operation("aufs: unlink", lambda view: view.unlink("f"), **aufs),
        _operation("aufs: rmdir", lambda view: view.rmdir("e"), **aufs),
        _operation("aufs: create again", _create("f"), first=lambda view: view.unlink("f"), **aufs),
        _operation("aufs: mkdir again", lambda view: view.mkdir("e"), first=lambda view: view.rmdir("e"), **aufs),
        _operation("aufs: link again", lambda view: view.link("u", "f"), first=lambda view: view.unlink("f"), **aufs),
        _operation("aufs: rename", lambda view: view.rename("f", "new"), **aufs),
    ]  # fmt: skip


OPERATIONS = [*_names(), *_attributes(), *_data(), *_looking(), *_forms()]
BY_NAME = {operation.name: operation for operation in OPERATIONS}
