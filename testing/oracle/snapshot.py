"""What a whole tree looks like, and where two of them differ.

A snapshot is taken through the eyes of root, with everything that the system calls show: names, types,
metadata, data, link groups, xattrs and ACLs. Must not change what it looks at, except for access times.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from testing.oracle.operations import digest, seen

_PRIVATE = "trusted.overlay."
"""What the names of the union's marks begin with in a snapshot, with `userxattr`, too."""


class Complaint(NamedTuple):
    """A rule that a tree breaks by itself."""

    text: str
    path: bytes | None = None
    """What has a number that it should not have, ..."""
    number: int | None = None
    """... and that number."""


@dataclass
class Snapshot:
    """One tree. Paths are relative, b"" is the root."""

    nodes: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    """Comparable: path to what is seen there."""
    numbers: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Not comparable between mounts: path to (st_dev, st_ino)."""
    complaints: list[Complaint] = field(default_factory=list)
    """A d_ino that is not the st_ino, a name listed twice."""


def take(root: bytes, *, with_data: bool = True) -> Snapshot:
    """The tree at this path. What cannot be looked at is in the snapshot by its errno."""
    snapshot = Snapshot()
    _visit(snapshot, root.rstrip(b"/"), b"", with_data)
    groups: dict[tuple[int, int], list[bytes]] = {}
    for path, number in snapshot.numbers.items():
        groups.setdefault(number, []).append(path)
    for paths in groups.values():
        if len(paths) > 1:
            for path in paths:
                snapshot.nodes[path]["same object as"] = sorted(other for other in paths if other != path)
    return snapshot


def _visit(snapshot: Snapshot, root: bytes, path: bytes, with_data: bool) -> int | None:
    full = root + b"/" + path
    node = snapshot.nodes[path] = {}
    try:
        st = os.lstat(full)
    except OSError as error:
        node["stat"] = errno.errorcode[error.errno or 0]
        return None
    node["stat"] = seen(st)
    snapshot.numbers[path] = (st.st_dev, st.st_ino)
    node["xattrs"] = _xattrs(full)
    if stat.S_ISLNK(st.st_mode):
        node["target"] = os.readlink(full)
    elif stat.S_ISREG(st.st_mode) and with_data:
        try:
            with open(full, "rb") as file:
                node["data"] = digest(file.read())
        except OSError as error:
            node["data"] = errno.errorcode[error.errno or 0]
    elif stat.S_ISDIR(st.st_mode):
        _visit_directory(snapshot, root, path, node, with_data)
    return st.st_ino


def _visit_directory(
    snapshot: Snapshot, root: bytes, path: bytes, node: dict[str, Any], with_data: bool
) -> None:
    try:
        with os.scandir(root + b"/" + path) as listing:
            entries = [(entry.name, entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in listing]
    except OSError as error:
        node["names"] = errno.errorcode[error.errno or 0]
        return
    if len({name for name, _, _ in entries}) != len(entries):
        names = sorted(name for name, _, _ in entries)
        snapshot.complaints.append(Complaint(f"{path!r} lists a name twice: {names}"))
    node["names"] = []
    for name, d_ino, is_dir in sorted(entries):
        child = path + b"/" + name if path else name
        if child in snapshot.nodes:
            continue
        st_ino = _visit(snapshot, root, child, with_data)
        if st_ino is None and snapshot.nodes[child]["stat"] == "ENOENT":
            # See `operations.not_a_ghost` for why this is a complaint and not part of what is compared.
            del snapshot.nodes[child]
            snapshot.complaints.append(Complaint(f"{child!r} is listed but cannot be looked up"))
            continue
        node["names"].append(name)
        if st_ino is None:
            continue  # its errno is compared: the user may list the directory, but not search it
        if st_ino != d_ino:
            text = f"{child!r} has st_ino {st_ino} but is listed with d_ino {d_ino}"
            snapshot.complaints.append(Complaint(text, child, st_ino))
        if is_dir != (snapshot.nodes[child]["stat"][0] == "dir"):
            snapshot.complaints.append(Complaint(f"{child!r} is listed with a wrong type"))


def _xattrs(full: bytes) -> Any:
    try:
        return {name: _xattr(full, name) for name in sorted(os.listxattr(full, follow_symlinks=False))}
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _xattr(full: bytes, name: str) -> bytes | str:
    try:
        return os.getxattr(full, name, follow_symlinks=False)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def differences(reference: Snapshot, subject: Snapshot) -> Iterable[tuple[str, str, object, object]]:
    """Every difference as (path, what, value in reference, value in subject)."""
    for path in sorted(reference.nodes.keys() | subject.nodes.keys()):
        left, right = reference.nodes.get(path), subject.nodes.get(path)
        if left is None or right is None:
            parent = (
                reference.nodes.get(path.rpartition(b"/")[0]),
                subject.nodes.get(path.rpartition(b"/")[0]),
            )
            if None not in parent:
                yield repr(path), "existence", left, right
            continue
        for what in sorted(left.keys() | right.keys()):
            if left.get(what) != right.get(what):
                yield repr(path), what, left.get(what), right.get(what)


def layer_fingerprint(root: bytes) -> dict[bytes, Any]:
    """A layer as it lies on disk, with all that a write to it would change; access times are left out."""
    found: dict[bytes, Any] = {b"": _fingerprint(root, os.lstat(root))}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = directory + b"/" + name
            found[path[len(root) :]] = _fingerprint(path, os.lstat(path))
    return found


def _fingerprint(path: bytes, st: os.stat_result) -> tuple[object, ...]:
    data: object = None
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as file:
            data = digest(file.read())
    elif stat.S_ISLNK(st.st_mode):
        data = os.readlink(path)
    stats = (st.st_mode, st.st_ino, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_rdev)
    return (*stats, st.st_mtime_ns, st.st_ctime_ns, data, tuple(sorted(_xattrs(path).items())))


def raw_upper(root: bytes, marks: str = _PRIVATE) -> Snapshot:
    """Upper as it lies on disk, with its marks: what the other system will find there.

    Left out are the marks that cannot be equal on two sides, or that mean nothing to a mount of it: an
    origin is a file handle, of which only the presence counts, and not even that for a directory (the
    kernel adds a missing one when a lookup merges the directory, so the side with more lookups has more of
    them). `impure` and `nlink` are the kernel's own hints, and `uuid` is what its statfs answers. A
    whiteout is a whiteout: how many share one inode, and when it was made, does not count.
    A directory's links are its subdirectories, which are compared by themselves.
    """
    snapshot = take(root)
    for node in snapshot.nodes.values():
        if node["stat"][0] == "chr" and node["stat"][6] == (0, 0):
            node.clear()
            node["stat"] = "whiteout"
            continue
        if node["stat"][0] == "dir":
            node["stat"] = (*node["stat"][:5], "links", *node["stat"][6:])
        attributes = node["xattrs"]
        for name in [name for name in attributes if name.startswith(marks)]:
            attributes[_PRIVATE + name.removeprefix(marks)] = attributes.pop(name)
        for name in [name for name in attributes if name.startswith(_PRIVATE)]:
            short = name.removeprefix(_PRIVATE)
            if short in ("impure", "nlink", "uuid") or (short == "origin" and node["stat"][0] == "dir"):
                del attributes[name]
            elif short in ("origin", "upper"):
                attributes[name] = b"present"
    return snapshot
