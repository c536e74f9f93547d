"""The kernel's node ids, and which file data a node is bound to.

A node's id is its inode's number, until a file is copied up while the kernel reads its lower file by
passthrough: Linux allows an inode one backing file at a time (fs/fuse/iomode.c), so the upper file then gets
an extra node, with the same inode number. Old readers keep the old node and the lower file; a lower backing
file is never used for writing. Nothing here talks to the kernel.
"""

from __future__ import annotations

FIRST_EXTRA_NODE = 1 << 63
"""Ids of extra nodes come after this one; inode numbers are below."""


class BackingFile:
    """A backing file that the kernel holds: its id, whether it is upper's, and how many opens use it."""

    __slots__ = ("file_id", "id", "is_upper", "opens")

    def __init__(self, backing_id: int, is_upper: bool, file_id: tuple[int, int]) -> None:
        self.id = backing_id
        self.is_upper = is_upper
        self.file_id = file_id
        self.opens = 0


class NodeMap:
    """Which inode a node stands for, and which node a lookup of an inode returns.

    `inos` has the inode numbers of extra nodes, `current` the newest extra node of an inode. `backings` and
    `cached_opens` say of each node that is open how: by which backing file, or how many opens go through the
    kernel's cache. The kernel refuses both at once. `lower_passthrough` says of a node whether its lower file
    is read by passthrough, once that is decided. `maybe_mmapped` are inodes to which mmap(2) may write by
    passthrough: their times change without a request.
    """

    __slots__ = (
        "_lookups",
        "_next",
        "backings",
        "cached_opens",
        "current",
        "inos",
        "lower_passthrough",
        "maybe_mmapped",
    )

    def __init__(self) -> None:
        self.inos: dict[int, int] = {}
        self.current: dict[int, int] = {}
        self.backings: dict[int, BackingFile] = {}
        self.cached_opens: dict[int, int] = {}
        self.lower_passthrough: dict[int, bool] = {}
        self.maybe_mmapped: set[int] = set()
        self._lookups: dict[int, int] = {}
        self._next = FIRST_EXTRA_NODE

    def renumber(self, ino: int) -> None:
        """Have lookups of *ino* return a new node from now on."""
        self._next += 1
        self.inos[self._next] = ino
        self.current[ino] = self._next
        self._lookups[self._next] = 0

    def add_lookup(self, node: int) -> None:
        """The reply has an entry of an extra node."""
        self._lookups[node] += 1

    def forget(self, node: int, count: int) -> int:
        """The kernel has dropped lookups of an extra node; returns the inode number."""
        ino = self.inos[node]
        left = self._lookups[node] = self._lookups[node] - count
        if left <= 0 and self.current.get(ino) != node:
            del self.inos[node], self._lookups[node]
        return ino

    def drop(self, ino: int) -> None:
        """The inode has left the table: the kernel has none of its nodes."""
        self.maybe_mmapped.discard(ino)
        self.lower_passthrough.pop(ino, None)
        node = self.current.pop(ino, None)
        if node is not None:
            self.inos.pop(node, None)
            self._lookups.pop(node, None)

    def nodes_of(self, ino: int) -> list[int]:
        """Every node by which the kernel may have the inode."""
        if ino not in self.current:
            return [ino]
        return [ino, *(node for node, owner in self.inos.items() if owner == ino)]
