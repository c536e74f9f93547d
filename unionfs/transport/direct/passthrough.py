"""Which opens the kernel serves from a backing file by itself, and never from a wrong one.

Linux (6.9 and later) allows a node one backing file at a time, and no cached open beside it. A file that is
copied up while its lower file is a node's backing file therefore gets a new node, and an OPEN of the old one
is answered ESTALE: the kernel looks the name up again and opens the new node. If it sends OPEN of the old one
again, it has no name to look up (/proc/PID/exe, /proc/PID/fd): an open for reading then gets the file that
the old node's readers have. A lower backing file must never serve an open that can write (invariant 12).
Which lower files have one is decided in lower_reads.py.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections import OrderedDict

from unionfs.overlay.file import OpenFile
from unionfs.overlay.inode import File
from unionfs.overlay.super import Union
from unionfs.transport.direct.lower_reads import LowerReadPolicy
from unionfs.transport.direct.nodes import BackingFile, NodeMap
from unionfs.transport.direct.protocol import (
    BACKING_MAP,
    DEV_IOC_BACKING_CLOSE,
    DEV_IOC_BACKING_OPEN,
    U32,
)
from unionfs.transport.direct.server import Server

log = logging.getLogger(__name__)

_MAX_REFUSED_THREADS = 1024

_MAX_IDLE = 4096
"""Lower backing files that are kept for the next open. Each holds a file open in the kernel."""


class Handle:
    """An open file as the kernel has it. `backing` is None for one that goes through its cache.

    `file` is None until the daemon itself needs to read it.
    """

    __slots__ = ("backing", "file", "node")

    def __init__(self, file: OpenFile | None, node: int) -> None:
        self.file = file
        self.node = node
        self.backing: BackingFile | None = None


class Passthrough:
    """Binds opens to backing files. `problem` says why the kernel refused one, once it has."""

    __slots__ = ("_fd", "_idle", "_nodes", "_server", "_union", "lower_reads", "problem", "refused")

    def __init__(self, server: Server, nodes: NodeMap, lower_reads: LowerReadPolicy) -> None:
        self._server = server
        self._union: Union = server.union
        self._fd = server.fd
        self._nodes = nodes
        self.lower_reads = lower_reads
        # By node, oldest first. Only of lowers: they do not change, and deleting one frees nothing.
        self._idle: OrderedDict[int, BackingFile] = OrderedDict()
        # By thread, the node whose OPEN was answered ESTALE last, unless the thread has sent LOOKUP since.
        self.refused: dict[int, int] = {}
        self.problem: str | None = None

    def before_open(self, node: int, ino: int, thread: int = 0, *, writes: bool) -> None:
        """Raise ESTALE for an open that the node's backing file must not serve. May raise `Wait`.

        The upper file is made first, so that the new node cannot be bound to the lower file in between.
        *thread* is the caller's; 0 where it is not known.
        """
        self.forget(node)
        backing = self._nodes.backings.get(node)
        if backing is None:
            return
        if not backing.is_upper and writes:
            self._union.copy_up(ino)
        inode = self._union.inode(ino)
        if isinstance(inode, File) and backing.is_upper != _data_in_upper(inode):
            if thread and not writes:
                if len(self.refused) == _MAX_REFUSED_THREADS:
                    self.refused.clear()
                self.refused[thread] = node
            self._raise_estale(node, ino)

    def _raise_estale(self, node: int, ino: int) -> None:
        nodes = self._nodes
        if nodes.current.get(ino, ino) == node:
            nodes.renumber(ino)
            # From now on the attributes can change through another node.
            self._server.invalidate_attrs(node)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def reopen(self, node: int, ino: int, thread: int) -> Handle | None:
        """A further open for reading, where the node's backing file is kept and still the right one.

        Or where there is no other way to the new node, or where the lower file goes through the cache.
        """
        backing = self._nodes.backings.get(node)
        if backing is None:
            backing = self._idle.get(node)
            if backing is None:
                return self._reopen_cached(node, ino)
        inode = self._union.inode(ino)
        if not isinstance(inode, File) or not self._union.fs.layers_static:
            return None
        if backing.is_upper != _data_in_upper(inode) and not (
            self.refused and self.refused.pop(thread, None) == node and backing.opens
        ):
            return None
        if not backing.opens:
            self._nodes.backings[node] = self._idle.pop(node)
        backing.opens += 1
        handle = Handle(None, node)
        handle.backing = backing
        return handle

    def _reopen_cached(self, node: int, ino: int) -> Handle | None:
        nodes = self._nodes
        if nodes.lower_passthrough.get(node, True):
            return None
        inode = self._union.inode(ino)
        if not isinstance(inode, File) or not self._union.fs.layers_static:
            return None
        opens = nodes.cached_opens.get(node, 0)
        if not opens and _data_in_upper(inode):
            # Copied up, and not open: by passthrough from now on.
            return None
        nodes.cached_opens[node] = opens + 1
        return Handle(None, node)

    def bind(self, handle: Handle, file: OpenFile, ino: int) -> int:
        """Bind an open to its backing file and return the file's id; 0 where it goes through the cache."""
        nodes, node = self._nodes, handle.node
        backing = nodes.backings.get(node)
        if backing is not None:
            if not self._union.fs.layers_static and _file_id(file.fd) != backing.file_id:
                # The layers changed underneath: another file has taken its place.
                self._raise_estale(node, ino)
        elif node in nodes.cached_opens or not self._uses_passthrough(node, file):
            nodes.cached_opens[node] = nodes.cached_opens.get(node, 0) + 1
            return 0
        else:
            try:
                backing_id = _ioctl(self._fd, DEV_IOC_BACKING_OPEN, BACKING_MAP.pack(file.fd, 0, 0))
            except OSError as error:
                # The cache always works. ELOOP: too many stacked filesystems; EPERM: no CAP_SYS_ADMIN.
                if self.problem is None:
                    self.problem = f"FUSE_DEV_IOC_BACKING_OPEN failed: {error.strerror}"
                    log.warning("no passthrough for some files: %s", self.problem)
                nodes.cached_opens[node] = nodes.cached_opens.get(node, 0) + 1
                return 0
            is_upper = _data_in_upper(file.inode)
            file_id = (0, 0) if self._union.fs.layers_static else _file_id(file.fd)
            backing = nodes.backings[node] = BackingFile(backing_id, is_upper, file_id)
        backing.opens += 1
        handle.backing = backing
        # What the daemon reads of it (holes, copy_file_range) must be what the kernel reads.
        file.stays = not backing.is_upper
        return backing.id

    def _uses_passthrough(self, node: int, file: OpenFile) -> bool:
        return _data_in_upper(file.inode) or self.lower_reads.uses_passthrough(node)

    def release(self, handle: Handle) -> None:
        """An open has ended: release the backing file with the last."""
        nodes, node, backing = self._nodes, handle.node, handle.backing
        if backing is None:
            left = nodes.cached_opens[node] - 1
            if left:
                nodes.cached_opens[node] = left
            else:
                del nodes.cached_opens[node]
            return
        backing.opens -= 1
        if backing.opens:
            return
        del nodes.backings[node]
        if backing.is_upper or not self._union.fs.layers_static:
            self._close(backing)
            return
        self._idle[node] = backing
        if len(self._idle) > _MAX_IDLE:
            self._close(self._idle.popitem(last=False)[1])

    def forget(self, node: int) -> None:
        """Keep no backing file for a node that is not open, and decide again at its next open."""
        self._nodes.lower_passthrough.pop(node, None)
        backing = self._idle.pop(node, None)
        if backing is not None:
            self._close(backing)

    def _close(self, backing: BackingFile) -> None:
        _ioctl(self._fd, DEV_IOC_BACKING_CLOSE, U32.pack(backing.id))


def _data_in_upper(inode: File) -> bool:
    """Whether the file's data lies in upper."""
    return inode.on_upper and not inode.metacopy


def _ioctl(fd: int, request: int, argument: bytes) -> int:
    # Python returns the call's result only for a mutable buffer.
    result: int = fcntl.ioctl(fd, request, bytearray(argument), True)
    return result


def _file_id(fd: int) -> tuple[int, int]:
    st = os.fstat(fd)
    return st.st_dev, st.st_ino
