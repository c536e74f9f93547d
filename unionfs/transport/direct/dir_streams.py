"""One directory stream shared by all readers of a directory, for kernels that send no OPENDIR or RELEASEDIR.

A cookie stays the position of its name for as long as the stream is kept, and new names are added at its end.
Nothing here reads a directory.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from unionfs.overlay.listing import DirHandle
from unionfs.overlay.super import Union

_KEPT = 256
"""Streams that are kept however long they are unused."""
_MAX_IDLE = 300.0
"""Seconds without a request after which a stream beyond those is dropped."""


class SharedDirStreams:
    """The streams by inode number, the least recently used first."""

    __slots__ = ("_streams", "_union")

    def __init__(self, union: Union) -> None:
        self._union = union
        self._streams: OrderedDict[int, tuple[DirHandle, float]] = OrderedDict()

    def get(self, ino: int) -> DirHandle:
        """The stream of a directory; ENOTDIR or ESTALE where there can be none."""
        streams = self._streams
        directory = self._union.directory(ino)
        now = time.monotonic()
        known = streams.pop(ino, None)
        if known is not None and known[0].directory is directory:
            handle = known[0]
        else:
            if known is not None:
                known[0].close()
            handle = DirHandle(directory)
        streams[ino] = (handle, now)
        if len(streams) > _KEPT:
            oldest = next(iter(streams))
            if now - streams[oldest][1] > _MAX_IDLE:
                streams.pop(oldest)[0].close()
        return handle

    def forget(self, ino: int) -> None:
        """The kernel has dropped lookups of an inode: with the last one its stream is closed."""
        if ino in self._streams and not self._union.knows(ino):
            self._streams.pop(ino)[0].close()
