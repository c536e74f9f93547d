"""The kernel's node numbers, and which file data a node is bound to.

A node's number is its inode's, until a file is copied up while the kernel reads its lower file by
passthrough: Linux allows an inode one backing file at a time (fs/fuse/iomode.c), so the upper file then gets
a node of its own, with the same inode number. Old readers keep the old node and the lower file; a lower
backing file is never used for writing. Nothing here talks to the kernel.
"""

from __future__ import annotations

NUMBERED = 1 << 63
"""Nodes from here on have numbers of their own; inode numbers are below."""


class Backing:
    """A backing file that the kernel holds: its id, whether it is upper's, and how many opens use it."""

    __slots__ = ("id", "key", "opens", "upper")

    def __init__(self, number: int, upper: bool, key: tuple[int, int]) -> None:
        self.id = number
        self.upper = upper
        self.key = key
        self.opens = 0


class Nodes:
    """Which inode a node stands for, and which node an inode is looked up as.

    `backings` and `cached` say of each node that is open how: by which backing file, or how many opens go
    through the kernel's cache. The kernel refuses both at once. `lower_reads` says of a node whether its
    lower file is read by passthrough, once that is decided. `mapped` are inodes that may be mapped to be
    written past us: their times change without a word.
    """

    __slots__ = ("_lookups", "_next", "backings", "cached", "current", "inos", "lower_reads", "mapped")

    def __init__(self) -> None:
        self.inos: dict[int, int] = {}
        self.current: dict[int, int] = {}
        self.backings: dict[int, Backing] = {}
        self.cached: dict[int, int] = {}
        self.lower_reads: dict[int, bool] = {}
        self.mapped: set[int] = set()
        self._lookups: dict[int, int] = {}
        self._next = NUMBERED

    def renumber(self, ino: int) -> None:
        """Have *ino* looked up as a new node from now on."""
        self._next += 1
        self.inos[self._next] = ino
        self.current[ino] = self._next
        self._lookups[self._next] = 0

    def counted(self, node: int) -> None:
        """The kernel was given an entry of a node with a number of its own."""
        self._lookups[node] += 1

    def forget(self, node: int, count: int) -> int:
        """The kernel has dropped lookups of such a node; returns the inode number."""
        ino = self.inos[node]
        left = self._lookups[node] = self._lookups[node] - count
        if left <= 0 and self.current.get(ino) != node:
            del self.inos[node], self._lookups[node]
        return ino

    def drop(self, ino: int) -> None:
        """The inode has left the table: nobody knows any of its nodes."""
        self.mapped.discard(ino)
        self.lower_reads.pop(ino, None)
        node = self.current.pop(ino, None)
        if node is not None:
            self.inos.pop(node, None)
            self._lookups.pop(node, None)

    def of(self, ino: int) -> list[int]:
        """Every node that the kernel may know the inode by."""
        if ino not in self.current:
            return [ino]
        return [ino, *(node for node, owner in self.inos.items() if owner == ino)]
