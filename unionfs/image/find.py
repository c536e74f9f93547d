"""Finding an image by what a user writes, and reading its documents. Changes nothing."""

from __future__ import annotations

import re
from contextlib import suppress

from unionfs.errors import ImageError, NotFoundError
from unionfs.image import blobs, index, names
from unionfs.image.digest import Digest
from unionfs.image.index import Image
from unionfs.image.model import Config, Descriptor, Index, Manifest, decode_config, decode_manifest
from unionfs.image.store import Store


def manifest_of(store: Store, descriptor: Descriptor) -> Manifest:
    """The manifest that a descriptor leads to. Raises ImageError where it is an index."""
    what = f"manifest {descriptor.digest}"
    found = decode_manifest(blobs.read_small(store, descriptor, what), descriptor.media_type, what)
    if isinstance(found, Index):
        raise ImageError(f"{what}: an index, where the manifest of one image is expected")
    return found


def config_of(store: Store, manifest: Manifest) -> Config:
    """An image's config."""
    what = f"config {manifest.config.digest}"
    return decode_config(blobs.read_small(store, manifest.config, what), manifest, what)


def id_of(store: Store, image: Image) -> Digest:
    """The id of an image: the digest of its config; of its manifest, where that cannot be read."""
    try:
        return manifest_of(store, image.manifest).config.id
    except ImageError:
        return image.manifest.id


def resolve(store: Store, text: str) -> Image:
    """The image that a user means: by name (`latest` without a tag), digest, or the beginning of its id.

    The id is the digest of the config, as in Docker; that of the manifest is found, too. Of manifests that
    have one config the first with a name is taken. Raises NotFoundError, and ImageError where several ids
    begin so.
    """
    every = index.images(store)
    try:
        wanted = names.parse(text).tagged()
    except ImageError:
        wanted = None
    if wanted is not None:
        for image in every:
            if wanted.digest is None:
                if wanted in image.tags:
                    return image
            elif any((each.name, each.digest) == (wanted.name, wanted.digest) for each in image.repo_digests):
                return image
    found = by_id(store, every, text.removeprefix("sha256:"))
    ids = {id_of(store, image) for image in found}
    if len(ids) > 1:
        raise ImageError(f"{text}: {len(ids)} images have an id that begins so: give more of it")
    if found:
        return next((image for image in found if image.tags), found[0])
    raise NotFoundError(f"there is no image {text}: `pyunionfs images` lists those there are")


def by_id(store: Store, every: list[Image], begin: str) -> list[Image]:
    """The images whose id begins so; if there are none, those whose manifest's digest does."""
    if not re.fullmatch(r"[0-9a-f]{1,64}", begin):
        return []
    manifests = [image for image in every if image.manifest.id.hex.startswith(begin)]
    ids = []
    for image in every:
        with suppress(ImageError):  # another one that is broken is no reason not to find this
            if manifest_of(store, image.manifest).config.id.hex.startswith(begin):
                ids.append(image)
    return ids or manifests
