"""Maps of ids, ACLs and a tree of several owners, for the tests of owners."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable

from tests.overlay.rig import Stack, View
from tests.overlay.trees import file
from unionfs.linux.overflow_id import overflow_id
from unionfs.overlay.config import IdMap, OwnersConfig
from unionfs.overlay.cred import Caller

NOBODY = overflow_id("uid")


MAP: IdMap = ((0, 1000, 1), (1, 100000, 99))
"""Of a container whose root is the user 1000, with 99 more ids."""


MAPPED = OwnersConfig(uid_map=MAP, gid_map=MAP)


def user(uid: int, gid: int | None = None, umask: int = 0) -> Caller:
    return Caller(uid, uid if gid is None else gid, 0, umask)


def owner(st: os.stat_result) -> tuple[int, int]:
    return st.st_uid, st.st_gid


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A `system.posix_acl_*` value of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def named(uid: int, gid: int) -> bytes:
    """An ACL with rights for one user and one group besides the owner's."""
    none = 0xFFFFFFFF
    return acl((1, 7, none), (2, 6, uid), (4, 5, none), (8, 4, gid), (0x10, 7, none), (0x20, 0, none))


def lower_tree(stack: Stack) -> Stack:
    """A lower with objects of several owners, and an upper with one."""
    stack.layers(
        {
            "root": file("r"),
            "seven": file("s"),
            "out": file("o"),
            "d": {"in": "i"},
            "many": {"a": "", "b": ""},
        },
        upper={"up": "u"},
    )
    low = stack.lowers[0]
    for name, uid, gid in (("seven", 7, 8), ("out", 5000, 6000), ("d", 7, 7), ("d/in", 1, 5000)):
        os.chown(low / name, uid, gid)
    os.symlink("nowhere", low / "link")
    os.chown(low / "link", 9, 9, follow_symlinks=False)
    os.chown(stack.upper / "up", 3, 4)
    return stack


MAKE: dict[str, Callable[[View, str, Caller], object]] = {
    "create": lambda view, path, who: view.create(path, b"new", 0o666, who),
    "mkdir": lambda view, path, who: view.mkdir(path, 0o777, who),
    "symlink": lambda view, path, who: view.symlink("to", path, who),
    "fifo": lambda view, path, who: view.mknod(path, stat.S_IFIFO | 0o666, 0, who),
    "device": lambda view, path, who: view.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5), who),
}
"""Ways to make an object, as a caller."""
