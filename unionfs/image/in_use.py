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
from dataclasses import dataclass, field

import msgspec

from unionfs.errors import ImageError
from unionfs.image import blobs, find, index
from unionfs.image.digest import Digest
from unionfs.image.layer_record import all_layers
from unionfs.image.lowers import is_mounted
from unionfs.image.model import Descriptor, Index, chain_ids, decode, decode_manifest
from unionfs.image.store import Store

_LOWER = re.compile(r"([0-9a-f]{64}(?:[0-9a-f]{64})?)/diff(?![^:,\s])")
"""A tree or a layer by its path, also a relative one, and one that is seen from another mount namespace."""


class ContainerRecord(msgspec.Struct, frozen=True):
    """What is read here of container.json."""

    id: str
    name: str
    manifest: Descriptor
    layers: list[str]


@dataclass(frozen=True, slots=True)
class Broken:
    """An image whose documents are missing or damaged: what of the store it needs is not known."""

    name: str
    problem: ImageError
    has_manifest: bool
    """Whether only its config is broken: then its blobs are known, and not its layers."""

    def __str__(self) -> str:
        kept = "layers" if self.has_manifest else "layers and blobs"
        return (
            f"image {self.name} is broken: {self.problem}: {kept} that no other image has were kept, for it"
            f" may need them: `pyunionfs verify --repair` fetches what it lacks, `pyunionfs rmi {self.name}`"
            " removes it; then prune again"
        )


@dataclass(slots=True)
class InUse:
    """What is in use."""

    blobs: set[Digest] = field(default_factory=set)
    chains: set[Digest] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)
    """Names in trees/."""
    layers: list[tuple[Digest, Digest | None]] = field(default_factory=list)
    """Blob and ChainID of each layer of the images; None: the image's config is broken."""
    broken: list[Broken] = field(default_factory=list)
    """Images that may use anything else."""

    @property
    def knows_layers(self) -> bool:
        """Whether nothing but `chains` and `trees` can be in use."""
        return not self.broken

    @property
    def knows_blobs(self) -> bool:
        """Whether nothing but `blobs` can be in use."""
        return all(each.has_manifest for each in self.broken)


def in_use(store: Store, directories: Iterable[str] = ()) -> InUse:
    """What is in use; *directories* are further ones that are, such as the lowers of mounts without an image.

    Raises ImageError where the list of images or a container's record is malformed.
    """
    found = InUse()
    images = index.images(store)
    for image in images:
        for problem, has_manifest in _add(store, image.manifest, found):
            found.broken.append(Broken(image.shown, problem, has_manifest))
    found.blobs.update(each.id for each in index.oci_forms(store).values())
    for image in images:
        # An index by which it came: a pull that finds it unchanged fetches nothing.
        found.blobs.update(each.digest for each in image.repo_digests if each.digest is not None)
    for container in containers(store):
        found.chains.update(map(Digest, container.layers))
        # It needs its layers only: documents that are missing or damaged cost it nothing.
        other = InUse()
        for _ in _add(store, container.manifest, other):
            pass
        found.blobs |= other.blobs
        found.chains |= other.chains
    found.trees = mounted_trees(store, directories)
    for layer in all_layers(store):
        if layer.chain in found.chains:
            found.trees.add(layer.record.tree)
    return found


def _add(store: Store, entry: Descriptor, found: InUse) -> Iterator[tuple[ImageError, bool]]:
    """What a manifest leads to, or an index, as other programs may put one here: manifests that are there.

    Gives what cannot be read, and whether the manifest could be.
    """
    if entry.id in found.blobs:
        return
    found.blobs.add(entry.id)
    try:
        what = f"manifest {entry.digest}"
        document = decode_manifest(blobs.read_small(store, entry, what), entry.media_type, what)
    except ImageError as error:
        yield error, False
        return
    if isinstance(document, Index):
        for each in document.manifests:
            if blobs.has(store, each.id):
                yield from _add(store, each, found)
        return
    found.blobs.add(document.config.id)
    found.blobs.update(layer.id for layer in document.layers)
    chains: list[Digest | None] = [None] * len(document.layers)
    try:
        chains = [*chain_ids(find.config_of(store, document).diff_ids)]
    except ImageError as error:
        yield error, True
    found.layers += zip((layer.id for layer in document.layers), chains, strict=True)
    found.chains.update(chain for chain in chains if chain is not None)


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
