"""A root filesystem, as a directory or a tar, becomes an image of one layer.

A tar is the layer as it is, as with Docker, so that its DiffID is the digest of the tar; of a directory one
is made. The stream is checked while it passes, and unpacked from its blob like any other layer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from unionfs.errors import ImageError
from unionfs.image import new_image, whole_tree
from unionfs.image.archive_outer import tar_of
from unionfs.image.digest import Readable
from unionfs.image.layer_blob import LayerBlob, LayerStream, new_layer
from unionfs.image.model import Platform
from unionfs.image.names import Reference
from unionfs.image.new_image import About, Made, latest_mtime
from unionfs.image.store import Store
from unionfs.image.tar_read import entries
from unionfs.image.tree_entries import Remark
from unionfs.offline.changes import check_layer
from unionfs.offline.layer_view import open_view

_BLOCK = 1 << 20


def import_tree(
    store: Store,
    path: Path,
    about: About,
    remark: Remark,
    *,
    platform: Platform,
    tag: Reference | None = None,
    compression: str = "gzip",
) -> Made:
    """An image of a directory. mtimes later than `About.now`, where that is given, become that.

    Raises MountError where it cannot be opened, ImageError where something in it cannot be read.
    """
    check_layer("directory", str(path))

    def fill(stream: LayerStream) -> None:
        # As a layer with nothing below it: what overlayfs's marks say in there counts for nothing.
        with open_view(None, [os.path.realpath(path)], userxattr=False) as view:
            whole_tree.write(view, stream.write, remark, latest_mtime(about.now))

    return _add(store, fill, about, platform, tag, compression)


def import_tar(
    store: Store,
    source: Readable,
    what: str,
    about: About,
    *,
    platform: Platform,
    limit: int,
    tag: Reference | None = None,
    compression: str = "gzip",
) -> Made:
    """An image of a tar, which may be compressed (gzip, zstd, bzip2, xz); *what* names it in messages.

    Raises ImageError for what is malformed, larger than *limit* bytes, or has names that lead out of it.
    """

    def fill(stream: LayerStream) -> None:
        passing = _Passing(tar_of(source, what, limit), stream)
        for _ in entries(passing, what):
            pass
        if not passing.size:
            raise ImageError(f"{what}: empty, where a tar is expected")

    return _add(store, fill, about, platform, tag, compression)


class _Passing:
    """A source of which all that is read goes into the layer as well."""

    def __init__(self, source: Readable, stream: LayerStream) -> None:
        self._source = source
        self._stream = stream
        self.size = 0

    def read(self, size: int, /) -> bytes:
        block = self._source.read(size)
        self._stream.write(block)
        self.size += len(block)
        return block


def _add(
    store: Store,
    fill: Callable[[LayerStream], None],
    about: About,
    platform: Platform,
    tag: Reference | None,
    compression: str,
) -> Made:
    with store.in_use():
        with new_layer(store, compression, (), ()) as stream:
            fill(stream)
        made: list[LayerBlob | None] = [stream.blob]
        return new_image.add(store, None, made, about, tag, platform)
