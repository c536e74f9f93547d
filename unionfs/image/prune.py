"""Removing what nothing uses: images, layers, trees, blobs, and what was left half. Looks, then removes.

What goes disappears by one rename, into ingest/: killed at any instant, whole things are left, and the rest
is removed by the next command.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from unionfs.image import blobs, find, index
from unionfs.image.digest import Digest
from unionfs.image.in_use import InUse, containers, in_use
from unionfs.image.layer_record import RECORD, TREE_RECORD, Layer, chain_of, read
from unionfs.image.layer_record import find as find_layer
from unionfs.image.model import chain_ids
from unionfs.image.store import Store, remove_tree
from unionfs.image.tree_check import note_content


@dataclass(slots=True)
class Pruned:
    """What was removed."""

    untagged: list[str] = field(default_factory=list)
    """Names of images, as Docker shows them."""
    images: list[Digest] = field(default_factory=list)
    """Ids."""
    layers: list[Digest] = field(default_factory=list)
    """ChainIDs."""
    blobs: list[Digest] = field(default_factory=list)
    """Blobs of layers that are in use; those that went with their image are not named."""
    freed: int = 0
    """Bytes of files and of blobs."""


def prune(
    store: Store, *, all_images: bool = False, layer_blobs: bool = False, directories: Iterable[str] = ()
) -> Pruned:
    """Remove images without a name, or with *all_images* those of no container, and all that nothing uses.

    With *layer_blobs* the blobs of unpacked layers go, too. *directories* are in use besides. The caller
    holds `Store.pruning`. Raises ImageError, having removed nothing, where an image's documents are broken.
    """
    directories = tuple(directories)
    in_use(store, directories)
    done = Pruned()
    kept = {container.manifest.digest for container in containers(store)}
    for image in index.images(store):
        if image.manifest.digest in kept or (image.tags and not all_images):
            continue
        done.untagged += [each.familiar for each in (*image.tags, *image.repo_digests)]
        done.images.append(find.manifest_of(store, image.manifest).config.id)
        index.remove_image(store, image.manifest.id)
    remove_unused(store, in_use(store, directories), done)
    if layer_blobs:
        _free_blobs(store, done)
    store.sweep(keep="")
    return done


def remove_unused(store: Store, used: InUse, done: Pruned) -> None:
    """Remove layers, trees and blobs that are not *used*. The caller holds `Store.pruning`."""
    sizes: dict[str, int] = {}
    for path in sorted(store.layers.iterdir()):
        chain = chain_of(path.name)
        if chain is None or chain in used.chains:
            continue
        record = read(path / RECORD)
        if record is not None:
            sizes[record.tree] = record.size
        _remove(store, path)
        done.layers.append(chain)
    for path in sorted(store.trees.iterdir()):
        if path.name not in used.trees:
            record = read(path / TREE_RECORD)
            done.freed += record.size if record is not None else sizes.get(path.name, 0)
            _remove(store, path)
    for digest, size in sorted(blobs.all_blobs(store)):
        if digest not in used.blobs:
            blobs.path_of(store, digest).unlink()
            done.freed += size


def _free_blobs(store: Store, done: Pruned) -> None:
    """Remove the blobs of layers that are unpacked wherever an image has them."""
    of_unpacked: dict[Digest, list[Layer]] = {}
    needed: set[Digest] = set()
    for image in index.images(store):
        manifest = find.manifest_of(store, image.manifest)
        chains = chain_ids(find.config_of(store, manifest).diff_ids)
        for blob, chain in zip(manifest.layers, chains, strict=True):
            layer = find_layer(store, chain)
            if layer is None:
                needed.add(blob.id)
            else:
                of_unpacked.setdefault(blob.id, []).append(layer)
    for digest, layers in of_unpacked.items():
        if digest not in needed and blobs.has(store, digest):
            path = blobs.path_of(store, digest)
            for layer in layers:
                note_content(store, layer)
            done.freed += path.stat().st_size
            done.blobs.append(digest)
            path.unlink()


def _remove(store: Store, path: Path) -> None:
    with store.claim(f"removed-{path.name}") as place:
        gone = place / "removed"
        if gone.exists():
            remove_tree(gone)
        os.rename(path, gone)
        remove_tree(gone)
