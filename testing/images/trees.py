"""Every attribute of every object of a tree, and how two trees differ. Reads only."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple


class Node(NamedTuple):
    """What two trees must agree in for one path. *content*: a file's sha256, a symlink's target."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    device: int
    content: str | bytes
    links: tuple[bytes, ...]
    """All names of the file in the tree, sorted; its own alone for most."""
    xattrs: Mapping[str, bytes]


def tree(root: Path, *, skip: Collection[str] = ()) -> dict[bytes, Node]:
    """All objects below *root*, itself as `.`; without xattrs whose names begin with one of *skip*."""
    names: dict[tuple[int, int], list[bytes]] = {}
    found: dict[bytes, os.stat_result] = {}
    top = os.fsencode(root)

    def walk(path: bytes) -> None:
        try:
            st = os.lstat(os.path.join(top, path))
        except FileNotFoundError:
            return  # overlayfs lists whiteout files that it then does not find
        found[path] = st
        names.setdefault((st.st_dev, st.st_ino), []).append(path)
        if stat.S_ISDIR(st.st_mode):
            for name in sorted(os.listdir(os.path.join(top, path))):
                walk(name if path == b"." else os.path.join(path, name))

    walk(b".")
    return {
        path: _node(os.path.join(top, path), st, names[st.st_dev, st.st_ino], skip)
        for path, st in found.items()
    }


def _node(path: bytes, st: os.stat_result, names: list[bytes], skip: Collection[str]) -> Node:
    content: str | bytes = b""
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
    return Node(
        st.st_mode,
        st.st_uid,
        st.st_gid,
        st.st_mtime_ns,
        st.st_size if stat.S_ISREG(st.st_mode) else 0,
        st.st_rdev,
        content,
        tuple(sorted(names)),
        {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
            if not name.startswith(tuple(skip))
        },
    )


def differences(
    one: Mapping[bytes, Node], other: Mapping[bytes, Node], *, ignore: Collection[str] = ()
) -> list[str]:
    """A line for each path that one has and the other has not, or that differs; *ignore* names fields."""
    lines = [f"{path!r}: only in the first" for path in one.keys() - other.keys()]
    lines += [f"{path!r}: only in the second" for path in other.keys() - one.keys()]
    for path in one.keys() & other.keys():
        for name in Node._fields:
            values = getattr(one[path], name), getattr(other[path], name)
            if name not in ignore and values[0] != values[1]:
                lines.append(f"{path!r}: {name}: {values[0]!r} and {values[1]!r}")
    return sorted(lines)
