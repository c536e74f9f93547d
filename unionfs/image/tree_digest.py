"""What a tree holds, as lines of text and as one digest: to compare trees, and to know one again. Reads only.

A line has an object's path, type, mode, owner, size, time, xattrs and content. It has nothing that differs
between two unpackings of the same layer: inode numbers, access times, times of whiteouts and of the root,
the labels that a security module puts on everything.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from unionfs.image.digest import Digest
from unionfs.image.tree_walk import walk
from unionfs.linux import xattr

_BLOCK = 1 << 20
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_LABELS = ("security.selinux", "security.ima", "security.evm", "security.SMACK64", "security.apparmor")


@dataclass(frozen=True, slots=True)
class Line:
    """One object of a tree, by the path from the tree's root (b"." for that)."""

    path: bytes
    about: str


def tree_digest(top: Path) -> Digest:
    """The digest of all lines."""
    whole = hashlib.sha256()
    for line in lines(top):
        whole.update(b"%d %b %b\n" % (len(line.path), line.path, line.about.encode()))
    return Digest("sha256:" + whole.hexdigest())


def difference(one: Path, other: Path) -> bytes | None:
    """The first path at which two trees differ; None: they are the same."""
    for left, right in zip_longest(lines(one), lines(other)):
        if left != right:
            return min(line.path for line in (left, right) if line is not None)
    return None


def lines(top: Path) -> Iterator[Line]:
    """Each object, in the order of `tree_walk.walk`."""
    first_names: dict[tuple[int, int], bytes] = {}
    for found in walk(top):
        st = found.st
        if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
            first = first_names.setdefault((st.st_dev, st.st_ino), found.path)
            if first != found.path:
                yield Line(found.path, f"link {os.fsdecode(first)!r}")
                continue
        yield Line(found.path, _about(found.dirfd, found.name, st))


def _about(dirfd: int, name: bytes, st: os.stat_result) -> str:
    if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
        return "whiteout"
    time = st.st_mtime_ns if name != b"." else 0  # many layers say nothing of their root
    parts = [f"{st.st_mode:o} {st.st_uid}:{st.st_gid} {time}"]
    if stat.S_ISREG(st.st_mode):
        parts.append(f"{st.st_size} {_content(dirfd, name)}")
    elif stat.S_ISLNK(st.st_mode):
        parts.append(repr(os.readlink(name, dir_fd=dirfd)))
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        parts.append(f"{os.major(st.st_rdev)}:{os.minor(st.st_rdev)}")
    for attribute in sorted(xattr.list_at(dirfd, name)):
        if attribute not in _LABELS:
            value = xattr.get_at(dirfd, name, os.fsencode(attribute))
            parts.append(f"{attribute!r}={value!r}")
    return " ".join(parts)


def _content(dirfd: int, name: bytes) -> str:
    hasher = hashlib.sha256()
    fd = os.open(name, _OPEN_FILE, dir_fd=dirfd)
    try:
        while block := os.read(fd, _BLOCK):
            hasher.update(block)
    finally:
        os.close(fd)
    return hasher.hexdigest()
