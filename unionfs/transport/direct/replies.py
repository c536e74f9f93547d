"""Packs the union's results into the protocol's structures: attributes, entries, times.

Only packing; the values are chosen by the union.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

from unionfs.overlay.attr import blocks
from unionfs.overlay.inode import File, Inode
from unionfs.transport.direct.nodes import NodeMap
from unionfs.transport.direct.protocol import ATTR_OUT, ENTRY_OUT

FOREVER = 10**9
"""Seconds for which the kernel may cache where every change comes through the mount."""

SECOND = 1_000_000_000

Pack = Callable[..., bytes]
LinkCount = Callable[[Inode, os.stat_result], int]


def encode_dev(rdev: int) -> int:
    """st_rdev as the kernel's 32 bits (new_encode_dev())."""
    major, minor = os.major(rdev), os.minor(rdev)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def decode_dev(number: int) -> int:
    """st_rdev from the kernel's 32 bits (new_decode_dev())."""
    return os.makedev((number & 0xFFF00) >> 8, number & 0xFF | number >> 12 & 0xFFF00)


class ReplyPacker:
    """Packs entries and attributes with the mount's timeouts and node numbers."""

    __slots__ = ("_current", "_invalidate", "_mapped", "_nodes", "_nsec", "_sec", "_uncached", "links")

    def __init__(self, nodes: NodeMap, timeout: float | None, links: LinkCount) -> None:
        self._nodes = nodes
        self.links = links
        self._current = nodes.current
        self._mapped = nodes.maybe_mmapped
        self._uncached: Collection[int] = ()
        self._invalidate: Callable[[int], None] = lambda node: None
        self._sec, self._nsec = (FOREVER, 0) if timeout is None else split_time(int(timeout * SECOND))

    def never_cache(self, inos: Collection[int], invalidate: Callable[[int], None]) -> None:
        """Have the kernel cache no attributes of these inodes, whichever reply has them.

        *invalidate* is called with their nodes: fuse.ko then drops attributes of requests sent before it.
        """
        self._uncached, self._invalidate = inos, invalidate

    def entry(self, inode: Inode, st: os.stat_result) -> bytes:
        """An entry, one lookup of which the kernel will count."""
        node = ino = inode.ino
        sec, nsec = valid = self._sec, self._nsec
        if ino in self._current:
            node = self._current[ino]
            self._nodes.add_lookup(node)
            valid = (0, 0)
        elif ino in self._mapped:
            valid = (0, 0)
        return self._pack(ENTRY_OUT.pack, (node, 0, sec, valid[0], nsec, valid[1]), inode, st)

    def attr(self, inode: Inode, st: os.stat_result) -> bytes:
        return self._pack(ATTR_OUT.pack, (*self.attr_valid(inode), 0), inode, st)

    def attr_valid(self, inode: Inode) -> tuple[int, int]:
        """For how long the kernel may cache attributes: seconds and nanoseconds."""
        # Of an inode with several nodes each would have to be invalidated when another changes it.
        unsure = inode.ino in self._current or inode.ino in self._mapped
        return (0, 0) if unsure else (self._sec, self._nsec)

    def negative_entry(self) -> bytes:
        """That there is no such name, for the kernel to cache."""
        return ENTRY_OUT.pack(0, 0, self._sec, 0, self._nsec, *(0,) * 17)

    def _pack(self, pack: Pack, head: tuple[int, ...], inode: Inode, st: os.stat_result) -> bytes:
        if self._uncached and inode.ino in self._uncached:
            self._invalidate(self._current.get(inode.ino, inode.ino))
        # Unpacked as a tuple, which is quicker and has the times in whole seconds.
        fields: Any = st
        mode, _, _, _, uid, gid, size, atime, mtime, ctime = fields
        rdev = st.st_rdev
        return pack(
            *head,
            inode.ino,
            size,
            blocks(inode, st) if isinstance(inode, File) and inode.metacopy else st.st_blocks,
            atime & _U64,
            mtime & _U64,
            ctime & _U64,
            st.st_atime_ns - atime * SECOND,
            st.st_mtime_ns - mtime * SECOND,
            st.st_ctime_ns - ctime * SECOND,
            mode,
            self.links(inode, st),
            uid,
            gid,
            encode_dev(rdev) if rdev else 0,
            st.st_blksize,
            0,
        )


_U64 = (1 << 64) - 1


def split_time(ns: int) -> tuple[int, int]:
    """Nanoseconds as whole seconds, rounded down, and the rest."""
    return divmod(ns, SECOND)


def join_time(seconds: int, ns: int) -> int:
    """Nanoseconds since the epoch."""
    return seconds * SECOND + ns
