"""The memory that requests are read into. Must not know what is in it."""

from __future__ import annotations

import mmap

Buffer = bytearray | bytes | mmap.mmap


def new_buffer(size: int) -> mmap.mmap:
    """Memory of this size that takes none until it is written to, which a bytearray does at once."""
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
