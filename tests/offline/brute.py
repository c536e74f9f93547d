"""The changes of a union by brute force: the whole tree that it shows against the whole tree of its lowers.

Knows nothing of layers or marks; it says what docs/offline.md defines, from what two mounts show.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

Tree = dict[bytes, dict[str, Any]]
"""Path, absolute from the root, to what is seen there."""

_COMPARED = ("type", "mode", "owner", "size", "mtime", "target", "device", "xattrs", "data")


def take(root: Path) -> Tree:
    """Everything that a mount shows."""
    tree: Tree = {}
    _visit(tree, os.fsencode(root), b"")
    return tree


def _visit(tree: Tree, root: bytes, path: bytes) -> None:
    full = root + path
    try:
        st = os.lstat(full)
    except FileNotFoundError:
        return  # overlayfs lists whiteout files that it then does not find
    kind = stat.S_IFMT(st.st_mode)
    node: dict[str, Any] = {
        "type": kind,
        "mode": stat.S_IMODE(st.st_mode),
        "owner": (st.st_uid, st.st_gid),
        "mtime": st.st_mtime_ns if path else None,
        "xattrs": _xattrs(full),
        "number": (st.st_dev, st.st_ino),
        "links": st.st_nlink,
    }
    tree[path or b"/"] = node
    if kind == stat.S_IFREG:
        node["size"] = st.st_size
        node["data"] = _data(full)
    elif kind == stat.S_IFLNK:
        node["target"] = os.readlink(full)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        node["device"] = st.st_rdev
    elif kind == stat.S_IFDIR:
        for name in os.listdir(full):
            _visit(tree, root, path + b"/" + name)


def _xattrs(full: bytes) -> dict[str, bytes]:
    return {
        name: os.getxattr(full, name, follow_symlinks=False)
        for name in os.listxattr(full, follow_symlinks=False)
    }


def _data(full: bytes) -> object:
    try:
        with open(full, "rb") as file:
            return hashlib.sha256(file.read()).digest()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> set[str]:
    """In which respects two objects differ; `type` alone if they do in that."""
    if ours["type"] != theirs["type"]:
        return {"type"}
    return {name for name in _COMPARED if ours.get(name) != theirs.get(name)}


def changes(union: Tree, below: Tree, *, but: frozenset[bytes] = frozenset()) -> dict[bytes, str]:
    """Path to A, C or D. The paths in *but* do not count as changed."""
    found: dict[bytes, str] = {}
    for path, node in union.items():
        if path not in below:
            found[path] = "A"
        elif path not in but and differences(node, below[path]):
            found[path] = "C"
    for path in below.keys() - union.keys():
        parent = union.get(_parent(path))
        if parent is not None and parent["type"] == stat.S_IFDIR:
            found[path] = "D"
    for path in list(found):
        above = _parent(path)
        while above != b"/":
            found.setdefault(above, "C")
            above = _parent(above)
    return found


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0] or b"/"
