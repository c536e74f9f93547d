"""Stores of images for tests, filled without the code that loads and pulls."""

from __future__ import annotations

from testing.images import Image
from unionfs.image import blobs, find, index, names
from unionfs.image.layers import Layer, layers_of
from unionfs.image.model import Descriptor
from unionfs.image.store import Store


def put(store: Store, image: Image, *tags: str, repo_digest: str | None = None) -> Descriptor:
    """Put an image's documents and blobs into the store, under these names; its layers are not unpacked."""
    for content in (*image.blobs, image.config, image.manifest):
        blobs.put_bytes(store, content)
    manifest = Descriptor(image.media_type, image.digest, len(image.manifest))
    digest = None if repo_digest is None else names.parse(repo_digest)
    for tag in tags or (None,):
        index.add(store, manifest, None if tag is None else names.parse(tag).tagged(), digest)
    return manifest


def layers_in(store: Store, text: str) -> list[Layer]:
    """The unpacked layers of the image that *text* means, from the lowest up."""
    manifest = find.manifest_of(store, find.resolve(store, text).manifest)
    return layers_of(store, find.config_of(store, manifest))
