"""How much of the disk images, containers and blobs take, and what of it could go. Looks only.

Sizes are those of files, as Docker counts them, without what directories and the filesystem itself take. A
tree that layers share is there once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from unionfs.errors import ImageError
from unionfs.image import blobs, find, index, tree_walk
from unionfs.image.digest import Digest
from unionfs.image.in_use import containers, mounted_trees
from unionfs.image.index import Image
from unionfs.image.layer_record import Layer, all_layers
from unionfs.image.model import chain_ids
from unionfs.image.store import Store
from unionfs.image.summary import moment


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of thing: how many there are, how many are in use, their bytes, and what of these could go."""

    total: int
    active: int
    size: int
    reclaimable: int


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image: the bytes of its unpacked layers, and of those that other images have, too."""

    image: Image
    id: Digest
    created: datetime | None
    size: int
    shared: int
    containers: int
    """How many were made of it."""

    @property
    def unique(self) -> int:
        """Bytes that only this image has."""
        return self.size - self.shared


@dataclass(frozen=True, slots=True)
class Usage:
    """The whole store."""

    images: Sequence[ImageUsage]
    problems: Sequence[ImageError]
    """Of images that are not among these, for their documents are broken."""
    layers: Part
    """Counts images; bytes of layers. Active are images of containers; reclaimable is what no container and
    no mount has."""
    blobs: Part
    """Of layers. Active are those of images' layers that are not unpacked; the others could go."""
    downloads: Part
    """What is being made, or was left half. Only the latter could go, but both look the same."""
    containers: Mapping[str, int]
    """Bytes in the upper of each, by its id."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """An image, and the blob and the layer (None: not unpacked) of each of its layers."""

    image: Image
    id: Digest
    created: datetime | None
    layers: Sequence[tuple[Digest, Layer | None]]

    def trees(self) -> dict[str, int]:
        """The sizes of its trees, by their names."""
        return {layer.record.tree: layer.size for _, layer in self.layers if layer is not None}


def usage(store: Store, directories: Iterable[str] = ()) -> Usage:
    """What there is. *directories* are in use besides, as for `in_use.in_use`."""
    layers = {layer.chain: layer for layer in all_layers(store)}
    images: list[_Looked] = []
    problems: list[ImageError] = []
    for image in index.images(store):
        try:
            images.append(_look(store, image, layers))
        except ImageError as error:
            problems.append(ImageError(f"image {image.shown}: {error}"))
    trees = {layer.record.tree: layer.size for layer in layers.values()}
    made = containers(store)
    kept = mounted_trees(store, directories)
    kept |= {layers[Digest(chain)].record.tree for each in made for chain in each.layers if chain in layers}
    found = _image_usages(images, Counter(each.manifest.digest for each in made))
    return Usage(
        found,
        problems,
        Part(
            len(images),
            sum(each.containers > 0 for each in found),
            sum(trees.values()),
            sum(size for tree, size in trees.items() if tree not in kept),
        ),
        _blobs(store, images),
        _downloads(store),
        {each.id: tree_walk.size(store.containers / each.id / "diff") for each in made},
    )


def _look(store: Store, image: Image, layers: Mapping[Digest, Layer]) -> _Looked:
    manifest = find.manifest_of(store, image.manifest)
    config = find.config_of(store, manifest)
    chains = chain_ids(config.diff_ids)
    pairs = [(blob.id, layers.get(chain)) for blob, chain in zip(manifest.layers, chains, strict=True)]
    return _Looked(image, manifest.config.id, moment(config.created), pairs)


def _image_usages(images: Sequence[_Looked], made: Mapping[str, int]) -> list[ImageUsage]:
    used = Counter(tree for each in images for tree in each.trees())
    return [
        ImageUsage(
            each.image,
            each.id,
            each.created,
            sum(each.trees().values()),
            sum(size for tree, size in each.trees().items() if used[tree] > 1),
            made.get(each.image.manifest.digest, 0),
        )
        for each in images
    ]


def _blobs(store: Store, images: Sequence[_Looked]) -> Part:
    """All blobs but images' manifests, in both forms, and configs."""
    documents = {each.id for each in index.oci_forms(store).values()}
    documents |= {each.id for each in images} | {each.image.manifest.id for each in images}
    documents |= {each.digest for one in images for each in one.image.repo_digests if each.digest is not None}
    needed = {blob for each in images for blob, layer in each.layers if layer is None}
    sizes = {digest: size for digest, size in blobs.all_blobs(store) if digest not in documents}
    free = sum(size for digest, size in sizes.items() if digest not in needed)
    return Part(len(sizes), len(needed & sizes.keys()), sum(sizes.values()), free)


def _downloads(store: Store) -> Part:
    sizes = [tree_walk.size(entry) for entry in store.ingest.iterdir()]
    return Part(len(sizes), 0, sum(sizes), sum(sizes))
