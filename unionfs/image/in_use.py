"""What of the store is in use: by an image, a container or a mount. Found by looking; changes nothing.

- Images are the entries of index.json: each leads to a manifest, a config, blobs and layers.
- Containers are `containers/ID/container.json`. Read here are `manifest` (a descriptor) and `layers`
  (ChainIDs): what they name is in use whether the image still has an entry or not.
- Mounts of an image hold locks on trees (`lowers.py`); those of kernel overlayfs are in the mount table of
  some process.

The caller holds `Store.pruning` if it decides by this what is removed.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from unionfs.errors import NotFoundError
from unionfs.image import blobs, find, index
from unionfs.image.digest import Digest
from unionfs.image.layer_record import all_layers
from unionfs.image.lowers import is_mounted
from unionfs.image.model import INDEXES, Descriptor, Index, chain_ids, decode, decode_manifest
from unionfs.image.store import Store

_LOWER = re.compile(r"([0-9a-f]{64}(?:[0-9a-f]{64})?)/diff(?![^:,\s])")
"""A tree or a layer by its path, also a relative one, and one that is seen from another mount namespace."""


class ContainerRecord(msgspec.Struct, frozen=True):
    """What is read here of container.json."""

    id: str
    name: str
    manifest: Descriptor
    layers: list[str]


@dataclass(slots=True)
class InUse:
    """What is in use."""

    blobs: set[Digest] = field(default_factory=set)
    chains: set[Digest] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)
    """Names in trees/."""


def in_use(store: Store, directories: Iterable[str] = ()) -> InUse:
    """What is in use; *directories* are further ones that are, such as the lowers of mounts without an image.

    Raises ImageError where an image's documents are broken: then it is not known what it uses.
    """
    found = InUse()
    for entry in index.read(store):
        _add(store, entry, found)
    found.blobs.update(each.id for each in index.oci_forms(store).values())
    for image in index.images(store):
        # An index by which it came: a pull that finds it unchanged fetches nothing.
        found.blobs.update(each.digest for each in image.repo_digests if each.digest is not None)
    for container in containers(store):
        found.chains.update(map(Digest, container.layers))
        with suppress(NotFoundError):  # it needs its layers only
            _add(store, container.manifest, found)
    found.trees = mounted_trees(store, directories)
    for layer in all_layers(store):
        if layer.chain in found.chains:
            found.trees.add(layer.record.tree)
    return found


def _add(store: Store, entry: Descriptor, found: InUse) -> None:
    """What a manifest leads to, or an index, as other programs may put one here: manifests that are there."""
    if entry.id in found.blobs:
        return
    found.blobs.add(entry.id)
    if entry.media_type in INDEXES:
        what = f"index {entry.digest}"
        document = decode_manifest(blobs.read_small(store, entry, what), entry.media_type, what)
        assert isinstance(document, Index)
        for each in document.manifests:
            if blobs.has(store, each.id):
                _add(store, each, found)
        return
    manifest = find.manifest_of(store, entry)
    found.blobs.add(manifest.config.id)
    found.blobs.update(layer.id for layer in manifest.layers)
    found.chains.update(chain_ids(find.config_of(store, manifest).diff_ids))


def containers(store: Store) -> list[ContainerRecord]:
    """The containers, in no order."""
    found = []
    for path in sorted(store.containers.glob("*/container.json")):
        try:
            found.append(decode(path.read_bytes(), ContainerRecord, str(path)))
        except FileNotFoundError:  # removed meanwhile
            continue
    return found


def mounted_trees(store: Store, directories: Iterable[str] = ()) -> set[str]:
    """The names of the trees that mounts have; *directories* are further lowers."""
    named = {name for text in (*_overlay_mounts(), *directories) for name in _LOWER.findall(text)}
    found = {
        entry.name for entry in store.trees.iterdir() if entry.name in named or _is_mounted(store, entry.name)
    }
    return found | {layer.record.tree for layer in all_layers(store) if layer.chain.hex in named}


def _is_mounted(store: Store, name: str) -> bool:
    try:
        return is_mounted(store.trees / name / "diff")
    except FileNotFoundError:
        return False  # damaged


def _overlay_mounts() -> Iterator[str]:
    """The lines of overlayfs's mounts, in the mount table of each process: /proc/PID/mountinfo is for all."""
    for path in glob.glob("/proc/[0-9]*/mountinfo"):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as table:
                yield from (line for line in table if " - overlay " in line)
        except OSError:
            continue  # the process has ended (ENOENT, ESRCH, EINVAL), or hides its own (hidepid)
