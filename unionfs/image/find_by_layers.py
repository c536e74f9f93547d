"""Which image a union's lowers are of: found by the trees of its layers, which lie in the store."""

from __future__ import annotations

import os
from collections.abc import Sequence

from unionfs.errors import ImageError
from unionfs.image import find, index
from unionfs.image.index import Image
from unionfs.image.layer_record import layers_of
from unionfs.image.lowers import tree_paths
from unionfs.image.store import Store


def lowers_of(store: Store, image: Image) -> list[str]:
    """The trees of an image as lowers, topmost first. Raises NotFoundError where one is not unpacked."""
    config = find.config_of(store, find.manifest_of(store, image.manifest))
    return [os.path.realpath(path) for path in tree_paths(layers_of(store, config))]


def image_of(store: Store, lowers: Sequence[str], name: str | None = None) -> tuple[Image, int] | None:
    """The image whose layers are the lowest of these lowers (real paths), and how many lie above them.

    The image with most layers; of several, the one of that *name*. None: there is none. Raises ImageError
    where it could be several.
    """
    found: list[tuple[int, Image]] = []
    for image in index.images(store):
        try:
            below = lowers_of(store, image)
        except ImageError:
            continue  # not unpacked, so not mounted; or broken, and no reason not to find another one
        if below and list(lowers[-len(below) :]) == below:
            found.append((len(below), image))
    if not found:
        return None
    most = max(count for count, _ in found)
    best = [image for count, image in found if count == most]
    if len(best) > 1 and name is not None:
        best = [image for image in best if _is_called(store, image, name)] or best
    if len(best) > 1:
        shown = ", ".join(_shown(image) for image in best)
        raise ImageError(f"several images have just these layers ({shown}): name one by --base")
    return best[0], len(lowers) - most


def _is_called(store: Store, image: Image, name: str) -> bool:
    try:
        return find.resolve(store, name).manifest.digest == image.manifest.digest
    except ImageError:
        return False


def _shown(image: Image) -> str:
    return image.tags[0].familiar if image.tags else image.manifest.id.short
