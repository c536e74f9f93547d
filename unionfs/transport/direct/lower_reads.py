"""How a lower file that is opened for reading is served: by passthrough, or through the kernel's cache.

A reader by passthrough keeps the lower file for as long as it has it open, whatever is written to the file
meanwhile, so only what is not written in place while it is read may be served so: programs and libraries, and
large files that are neither text (logs) nor databases. Decides by size and first bytes, and gives
small files to the kernel's cache together with the answer to the OPEN, so that no READ follows.
"""

from __future__ import annotations

import os
import stat
from enum import Enum

from unionfs.overlay.cred import Caller
from unionfs.overlay.file import BLOCKS, OpenFile
from unionfs.overlay.inode import File
from unionfs.overlay.super import Union
from unionfs.transport.direct.nodes import Nodes
from unionfs.transport.direct.server import Server

HEAD = 4096
"""How many bytes of a file decide."""

PUSHED = 128 << 10
"""Files up to this size go to the kernel's cache with the OPEN: one read of readahead's usual size."""

LARGE = 4 << 20
"""Files from this size on gain more by passthrough than the opens of their readers cost."""


class LowerPassthrough(Enum):
    """Which lower files are read by passthrough: with `passthrough=on`, `passthrough=auto`, `coherent`."""

    ALL = "all"
    UNCHANGING = "unchanging"
    NONE = "none"


_ELF = b"\x7fELF"
_ET_EXEC, _ET_DYN = 2, 3

_DATABASES = (
    (0, b"SQLite format 3\0"),
    (0, b"RpmP"),  # rpm's ndb
    (0, b"LPKSHHRH"),  # the journal of systemd
    *((0, (0x13579ACD + n).to_bytes(4, order)) for n in range(3) for order in ("little", "big")),  # GDBM
    *((12, n.to_bytes(4, order)) for n in (0x061561, 0x053162, 0x042253) for order in ("little", "big")),
    # Berkeley DB: hash, btree and queue
    *((16, n.to_bytes(4, order)) for n in (0xBEEFC0DE,) for order in ("little", "big")),  # LMDB
)
"""Where the signatures of databases and journals stand, which are written in place while others read them."""


def is_unchanging(head: bytes, size: int) -> bool:
    """Whether a file of *size* bytes that begins with *head* is not written in place while it is read."""
    if head.startswith(_ELF):
        # Not object files, which compilers write in place. e_type is in the byte order that EI_DATA says.
        kind = int.from_bytes(head[16:18], "big" if head[5:6] == b"\2" else "little")
        return kind in (_ET_EXEC, _ET_DYN)
    # Text has no zero byte: this is what grep(1) and git go by.
    return size >= LARGE and 0 in head and not any(head.startswith(mark, at) for at, mark in _DATABASES)


class LowerReads:
    """Decides at the first open of a lower file, and remembers it as long as the kernel knows the node."""

    __slots__ = ("_me", "_nodes", "_policy", "_reads", "_room", "_server", "_union")

    def __init__(self, server: Server, nodes: Nodes, policy: LowerPassthrough) -> None:
        self._server = server
        self._union: Union = server.union
        self._nodes = nodes
        self._policy = policy
        self._me = Caller(os.geteuid(), os.getegid(), os.getpid(), 0)
        self._room = memoryview(bytearray(PUSHED))
        # By node, the reads from the disk that a decision waits for.
        self._reads: dict[int, _FirstRead] = {}

    def by_passthrough(self, node: int) -> bool:
        """Whether the lower file of a node is read by passthrough."""
        if self._policy is LowerPassthrough.UNCHANGING:
            return self._nodes.lower_reads.get(node, False)
        return self._policy is LowerPassthrough.ALL

    def is_undecided(self, node: int, ino: int) -> bool:
        """Whether `decide` must be called before the node is opened for reading."""
        nodes = self._nodes
        if self._policy is LowerPassthrough.ALL or node in nodes.backings or node in nodes.cached:
            return False
        if node in nodes.lower_reads and self._union.fs.trust:
            return False
        return lies_in_lower(self._union, ino) is not None

    def decide(self, node: int, ino: int) -> _FirstRead | None:
        """Decide by what the page cache holds of the file; else return the read that must be run first."""
        read = self._reads.get(node)
        if read is not None:
            return read
        file = self._union.open_lower(ino, self._me)
        try:
            size = os.fstat(file.fd).st_size
            room = self._room[: _wanted(size)]
            # With a timeout layers may change, and what a worker has read may be old: then wait here.
            flags = os.RWF_NOWAIT if self._union.fs.trust else 0
            try:
                count = os.preadv(file.fd, (room,), 0, flags) if room else 0
            except OSError as error:
                if error.errno not in BLOCKS:
                    raise
                count = -1
            if count == len(room):
                self.decided(node, ino, size, room)
                return None
            read = self._reads[node] = _FirstRead(self, node, ino, file, size)
            return read
        finally:
            if read is None:
                self._union.release(file)

    def decided(self, node: int, ino: int, size: int, data: memoryview | bytes) -> None:
        """Note how the file is read, of which *data* is the beginning; all of it, where that is pushed."""
        by_passthrough = self._policy is LowerPassthrough.UNCHANGING and is_unchanging(
            bytes(data[:HEAD]), size
        )
        self._nodes.lower_reads[node] = by_passthrough
        if by_passthrough or not data or len(data) < size or not self._union.fs.trust:
            return
        inode = lies_in_lower(self._union, ino)
        # Without an open that goes through the cache there is no READ under way.
        if inode is None or node in self._nodes.cached:
            return
        # A metacopy has a size of its own, which the kernel goes by.
        if inode.metacopy and inode.lstat().st_size != size:
            return
        self._server.store(node, data)

    def ended(self, read: _FirstRead) -> None:
        """A read is over; `decided` was called or is not going to be."""
        del self._reads[read.node]
        self._union.release(read.file)


class _FirstRead:
    """The task of reading a lower file's beginning from the disk, after which its open is decided."""

    __slots__ = ("_data", "_ino", "_reads", "_size", "file", "node")

    def __init__(self, reads: LowerReads, node: int, ino: int, file: OpenFile, size: int) -> None:
        self._reads = reads
        self.node = node
        self._ino = ino
        self.file = file
        self._size = size
        self._data = b""

    def run(self) -> None:
        """Any thread."""
        self._data = os.pread(self.file.fd, _wanted(self._size), 0)

    def finish(self, error: BaseException | None) -> None:
        """After a read error the file goes through the cache: read(2) reports it, not open(2)."""
        try:
            self._reads.decided(self.node, self._ino, self._size, self._data)
        finally:
            self._reads.ended(self)


def lies_in_lower(union: Union, ino: int) -> File | None:
    """The inode, where it is a regular file whose data lies in a lower."""
    inode = union.inode(ino)
    if not isinstance(inode, File) or not stat.S_ISREG(inode.mode):
        return None
    return inode if inode.metacopy or not inode.on_upper else None


def _wanted(size: int) -> int:
    """How much of a file is read to decide: all that is pushed, or what tells its kind."""
    return size if size <= PUSHED else HEAD
