"""Layers for tests: made from a description, and described again as they lie on disk.

`build` makes a tree, `disk` says what a layer really holds, marks included, one line an object, so that a
test can say the whole of what an operation must leave behind. Nothing here may go through the union.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

TRUSTED = "trusted.overlay."
USER = "user.overlay."

TIME_NS = 1_000_000_000_123_456_789
"""The mtime and atime that `build` gives to everything."""


@dataclass(frozen=True)
class Obj:
    """One object of a layer."""

    mode: int
    data: bytes = b""
    size: int | None = None
    entries: Mapping[str, Spec] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    owner: tuple[int, int] = (0, 0)
    rdev: int = 0


Spec: TypeAlias = str | Mapping[str, "Spec"] | Obj
"""A file's content, a directory's entries, or something more special."""

Tree: TypeAlias = Mapping[str, Spec]

WHITEOUT = Obj(stat.S_IFCHR)


def directory(
    entries: Tree | None = None,
    *,
    mode: int = 0o755,
    owner: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] | None = None,
    **marks: str,
) -> Obj:
    """A directory; *marks* as opaque="y"."""
    return Obj(stat.S_IFDIR | mode, entries=entries or {}, marks=marks, xattrs=xattrs or {}, owner=owner)


def file(
    data: str | bytes = "",
    *,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    size: int | None = None,
    xattrs: Mapping[str, bytes] | None = None,
    marked: Mapping[str, str] | None = None,
    **marks: str,
) -> Obj:
    """A regular file; *size*, when given, makes it longer by a hole. *marked*: more marks."""
    marks |= marked or {}
    content = data.encode() if isinstance(data, str) else data
    return Obj(stat.S_IFREG | mode, content, size, marks=marks, xattrs=xattrs or {}, owner=owner)


def symlink(target: str) -> Obj:
    return Obj(stat.S_IFLNK | 0o777, target.encode())


def node(mode: int, rdev: int = 0) -> Obj:
    return Obj(mode, rdev=rdev)


def build(root: Path, tree: Tree, *, prefix: str = TRUSTED) -> Path:
    """Make *tree* in *root* (made if need be); every time is TIME_NS afterwards."""
    root.mkdir(exist_ok=True)
    for name, spec in tree.items():
        _make(root / name, _object(spec), prefix)
    os.utime(root, ns=(TIME_NS, TIME_NS))
    return root


def _object(spec: Spec) -> Obj:
    if isinstance(spec, Obj):
        return spec
    return file(spec) if isinstance(spec, str) else directory(spec)


def _make(path: Path, what: Obj, prefix: str) -> None:
    kind = stat.S_IFMT(what.mode)
    if kind == stat.S_IFDIR:
        path.mkdir()
    elif kind == stat.S_IFREG:
        path.write_bytes(what.data)
        if what.size is not None:
            os.truncate(path, what.size)
    elif kind == stat.S_IFLNK:
        os.symlink(what.data, os.fsencode(path))
    else:
        os.mknod(path, what.mode, what.rdev)
    os.chown(path, *what.owner, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        path.chmod(stat.S_IMODE(what.mode))
    for name, value in what.marks.items():
        os.setxattr(path, prefix + name, value.encode(), follow_symlinks=False)
    for name, raw in what.xattrs.items():
        os.setxattr(path, name, raw, follow_symlinks=False)
    if kind == stat.S_IFDIR:
        build(path, what.entries, prefix=prefix)
    os.utime(path, ns=(TIME_NS, TIME_NS), follow_symlinks=False)


def marks(path: Path, *, prefix: str = TRUSTED) -> dict[str, bytes]:
    """The union's marks on one object, by short name."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {
        name[len(prefix) :]: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name.startswith(prefix)
    }


def disk(root: Path, *, prefix: str = TRUSTED) -> dict[str, str]:
    """Everything that a layer holds: path to "kind [content] marks".

    The value of `origin` is left out, for it is a file handle; "opaque", "impure" and "metacopy" stand for
    their usual values.
    """
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = " ".join([kind_of(path, prefix), *_mark_words(path, prefix)])
    return found


def kind_of(path: Path, prefix: str = TRUSTED) -> str:
    """What an object is, with content or target, marks left out."""
    st = path.lstat()
    if stat.S_ISDIR(st.st_mode):
        return "dir"
    if stat.S_ISLNK(st.st_mode):
        return f"link {os.readlink(path)!r}"
    if stat.S_ISREG(st.st_mode):
        if "metacopy" in marks(path, prefix=prefix):
            return f"file of {st.st_size}"
        return "file " + repr(path.read_bytes().decode(errors="replace"))
    if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
        return "whiteout"
    return f"{node_kind(st.st_mode)} {os.major(st.st_rdev)}:{os.minor(st.st_rdev)}"


def node_kind(mode: int) -> str:
    return {stat.S_IFCHR: "char", stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}[
        stat.S_IFMT(mode)
    ]


_USUAL = {"opaque": b"y", "impure": b"y", "metacopy": b""}


def _mark_words(path: Path, prefix: str) -> list[str]:
    words = []
    for name, value in sorted(marks(path, prefix=prefix).items()):
        if name == "origin" or _USUAL.get(name) == value:
            words.append(name)
        else:
            words.append(f"{name}={value.decode(errors='replace')}")
    return words
