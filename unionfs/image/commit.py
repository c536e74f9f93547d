"""A new image from an image and what an upper has over it: the layer is made here, `new_image` does the rest.

Each directory above the image's layers becomes one layer: for most that is an upper, but a mount may have had
further directories over an image. One that shows nothing of its own makes no layer. Blobs come first and the
index last, so that killed at any instant the store has the old images, or the new one as well.

The directories may be those of a union that is mounted. Then each file is as it was when it was read, and
what was changed after the beginning may be in the layer or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unionfs.image import layers, new_image, platform
from unionfs.image.digest import Digest
from unionfs.image.index import Image
from unionfs.image.layer_blob import LayerBlob, new_layer
from unionfs.image.layer_content import LayerContent
from unionfs.image.lowers import tree_paths
from unionfs.image.names import Reference
from unionfs.image.new_image import About, Made, latest_mtime
from unionfs.image.store import Store
from unionfs.image.tar_write import TarWriter
from unionfs.image.tree_entries import EntryWriter, Remark
from unionfs.linux.process import raise_open_file_limit
from unionfs.offline.changes import check_layer, uses_userxattr
from unionfs.offline.layer_view import open_view


@dataclass(frozen=True, slots=True)
class Above:
    """What lies over an image's layers.

    `directories` are uppers, or lowers of a mount that are none of the image's, topmost first. `lowers` and
    `data_lowers` are what lies below these, where that is no image; None: not known. `userxattr` as the
    mount option; None: that is found out. `index` is the `work/index` of the topmost.
    """

    directories: Sequence[Path]
    lowers: Sequence[Path] | None = None
    data_lowers: Sequence[Path] = ()
    userxattr: bool | None = None
    index: Path | None = None


def commit(
    store: Store,
    above: Above,
    base: Image | None,
    about: About,
    remark: Remark,
    *,
    tag: Reference | None = None,
    compression: str = "gzip",
) -> Made:
    """Store a new image of *base* and what is above it. Without a base it has the new layers alone.

    *remark* is called with what could not be taken as it is. mtimes later than `About.now`, if given, become
    that. Raises MountError where a directory cannot be opened, ImageError where something in one
    cannot be read, or is missing in the layers below. Nothing is stored then but perhaps a blob without use.
    """
    raise_open_file_limit()
    for path in (*above.directories, *(above.lowers or ()), *above.data_lowers):
        check_layer("layer", str(path))
    with store.in_use():
        found = None if base is None else new_image.base_of(store, base)
        stack = _Stack(list(above.lowers or ()), are_known=found is not None or above.lowers is not None)
        if found is not None:
            there = layers.ensure(store, found.manifest, found.config)
            stack.below = tree_paths(there)
            stack.diff_ids = list(found.config.diff_ids)
            stack.trees = [layer.path for layer in reversed(there)]
        made = []
        for path in reversed(above.directories):
            index = above.index if path == above.directories[0] else None
            made.append(_layer(store, path, stack, above, about, remark, compression, index))
            stack.below.insert(0, path)
        return new_image.add(store, found, made, about, tag, platform.host())


@dataclass(slots=True)
class _Stack:
    """What lies below the next layer: `below` as the union has it, the others as the new image does.

    Paths are topmost first, DiffIDs lowest first. `are_known`: whether `below` is all that the union has.
    """

    below: list[Path]
    are_known: bool
    diff_ids: list[Digest] = field(default_factory=list)
    trees: list[Path] = field(default_factory=list)


def _layer(
    store: Store,
    path: Path,
    stack: _Stack,
    above: Above,
    about: About,
    remark: Remark,
    compression: str,
    index: Path | None,
) -> LayerBlob | None:
    """One directory as a layer in the store; None where it shows nothing of its own."""
    userxattr = uses_userxattr(str(path)) if above.userxattr is None else above.userxattr
    lowers, data_lowers = [str(each) for each in stack.below], [str(each) for each in above.data_lowers]
    unpacked = {str(each) for each in stack.trees}
    with open_view(str(path), lowers, data_lowers, userxattr=userxattr, unpacked=unpacked) as view:
        content = LayerContent(
            view,
            remark,
            index=None if index is None else str(index),
            marks=not stack.are_known and not stack.below,
        )
        if not content:
            return None
        with new_layer(store, compression, stack.diff_ids, stack.trees) as stream:
            writer = TarWriter(stream.write)
            content.write(EntryWriter(view.fs, writer, remark, latest_mtime(about.now)))
            writer.close()
    blob = stream.blob
    assert blob is not None
    stack.diff_ids.append(blob.diff_id)
    stack.trees.insert(0, blob.layer.path)
    return blob
