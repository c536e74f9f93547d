"""Images from archives and layout directories: the face of this folder for `load`.

All documents are read and verified, and every layer looked for, before anything is stored; and no image gets
its name before all have their layers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace

from unionfs.errors import ImageError
from unionfs.image import blobs, find, index, layers
from unionfs.image.archive_members import Members, opened
from unionfs.image.archive_read import Found, images
from unionfs.image.digest import Digest, Readable
from unionfs.image.model import Descriptor, Platform
from unionfs.image.names import Reference
from unionfs.image.progress import SILENT, Observer
from unionfs.image.store import Store


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that is in the store now."""

    id: Digest
    tags: list[Reference]


def load(
    store: Store,
    fd: int,
    what: str,
    observer: Observer = SILENT,
    *,
    wanted: Platform | None = None,
    max_layer_size: int = layers.MAX_LAYER_SIZE,
) -> list[Loaded]:
    """Load all images of the archive or layout directory that *fd* has open; *what* is its name in messages.

    Of images for several platforms the one for *wanted*, or else for this machine. A pipe is read once, from
    where it is. Raises ImageError for what is malformed, does not match its digest, or is missing.
    """
    with store.in_use(), opened(store, fd, what, max_layer_size) as members:
        found = [_known(store, each) or each for each in images(members, wanted)]
        for each in found:
            _unpack(store, members, each, observer, max_layer_size)
        for each in found:
            blobs.put_all(store, each.documents)
            for tag in each.tags:
                index.add(store, each.descriptor, tag, parent=each.parent)
            if not each.tags:
                index.add(store, each.descriptor, parent=each.parent)
    return [Loaded(each.manifest.config.id, each.tags) for each in found]


def _known(store: Store, image: Found) -> Found | None:
    """An image whose manifest was made for it, as that which the store has of it already."""
    if not image.manifest_is_made:
        return None
    for other in index.images(store):
        with suppress(ImageError):
            manifest = find.manifest_of(store, other.manifest)
            if manifest.config.digest == image.manifest.config.digest:
                layers.layers_of(store, image.config)
                return replace(image, descriptor=other.manifest, manifest=manifest, documents=())
    return None


def _unpack(store: Store, members: Members, image: Found, observer: Observer, max_layer_size: int) -> None:
    def open_layer(layer: Descriptor, offset: int, /) -> AbstractContextManager[Readable]:
        return members.open(image.places[layer.digest], offset)

    layers.ensure(store, image.manifest, image.config, open_layer, observer, max_layer_size=max_layer_size)
    if image.documents:
        # Those of layers that were there already, by other blobs: so the image can be saved as it came.
        for layer in image.manifest.layers:
            with open_layer(layer, 0) as source:
                blobs.put(store, source, layer, f"layer {layer.digest}")
