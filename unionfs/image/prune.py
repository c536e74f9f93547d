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
from unionfs.image.in_use import Broken, InUse, containers, in_use
from unionfs.image.layer_record import RECORD, TREE_RECORD, Layer, chain_of, read
from unionfs.image.layer_record import find as find_layer
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
    broken: list[Broken] = field(default_factory=list)
    """Images for the sake of which other things were kept."""


def prune(
    store: Store, *, all_images: bool = False, layer_blobs: bool = False, directories: Iterable[str] = ()
) -> Pruned:
    """Remove images without a name, or with *all_images* those of no container, and all that nothing uses.

    With *layer_blobs* the blobs of unpacked layers go, too. *directories* are in use besides. The caller
    holds `Store.pruning`. Where an image that stays is broken, so does what it may need: `Pruned.broken`.
    Raises ImageError, having removed nothing, where the list of images or a container's record is malformed.
    """
    done = Pruned()
    kept = {container.manifest.digest for container in containers(store)}
    for image in index.images(store):
        if image.manifest.digest in kept or (image.tags and not all_images):
            continue
        done.untagged += [each.familiar for each in (*image.tags, *image.repo_digests)]
        done.images.append(find.id_of(store, image))
        index.remove_image(store, image.manifest.id)
    used = in_use(store, directories)
    remove_unused(store, used, done)
    if layer_blobs:
        _free_blobs(store, used, done)
    store.sweep(keep="")
    return done


def remove_unused(store: Store, used: InUse, done: Pruned) -> None:
    """Remove layers, trees and blobs that are not *used*. The caller holds `Store.pruning`."""
    done.broken = used.broken
    if used.knows_layers:
        _remove_layers(store, used, done)
    if used.knows_blobs:
        for digest, size in sorted(blobs.all_blobs(store)):
            if digest not in used.blobs:
                blobs.path_of(store, digest).unlink()
                done.freed += size


def _remove_layers(store: Store, used: InUse, done: Pruned) -> None:
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


def _free_blobs(store: Store, used: InUse, done: Pruned) -> None:
    """Remove the blobs of layers that are unpacked wherever an image has them."""
    if not used.knows_blobs:
        return
    of_unpacked: dict[Digest, list[Layer]] = {}
    needed: set[Digest] = set()
    for blob, chain in used.layers:
        layer = None if chain is None else find_layer(store, chain)
        if layer is None:
            needed.add(blob)
        else:
            of_unpacked.setdefault(blob, []).append(layer)
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
