"""What is known of an unpacked layer, and where it lies. Reads and forms layer.json; unpacks nothing.

    layers/CHAIN/layer.json     a Record
    layers/CHAIN/diff           -> ../../trees/NAME/diff
    trees/NAME/tree.json        the Record of the layer for which it was unpacked
    trees/NAME/diff/            the tree

A tree outlives the layer for which it was unpacked while another layer has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from unionfs.errors import ImageError, NotFoundError
from unionfs.image.digest import Digest
from unionfs.image.model import Config, chain_ids, decode
from unionfs.image.store import Store

RECORD = "layer.json"
TREE_RECORD = "tree.json"
DIFF = "diff"


ROOT, USERNS, OVERRIDE_STAT = "root", "userns", "override_stat"
"""The forms in which layers are unpacked (`LayerForm.name`)."""


class Record(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """layer.json."""

    diff_id: str
    tree: str
    """Its name in trees/."""
    size: int
    """Bytes in its files, as `docker history` counts a layer."""
    entries: int
    form: str
    """How whiteouts, owners and xattrs are written (`LayerForm.name`)."""
    blob: str
    """The digest of the blob from which it was unpacked."""
    blob_size: int
    parent: str | None = None
    """The ChainID of the layer below."""
    depends: bool = False
    """Whether the tree holds files of layers below (hard links): nothing on another parent shares it."""
    content: str | None = None
    """A digest of the whole tree (`tree_digest.py`), once it was taken; in tree.json only."""


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer. `path` is the real directory, which is never written."""

    chain: Digest
    path: Path
    record: Record

    @property
    def diff_id(self) -> Digest:
        return Digest(self.record.diff_id)

    @property
    def parent(self) -> Digest | None:
        """The ChainID of the layer below; None for the lowest."""
        return Digest(self.record.parent) if self.record.parent is not None else None

    @property
    def size(self) -> int:
        """Bytes in its files, as Docker counts them."""
        return self.record.size

    @property
    def blob(self) -> Digest:
        """The blob from which it was unpacked; whether it is still in the store, `blobs.has` says."""
        return Digest(self.record.blob)

    @property
    def depends(self) -> bool:
        """Whether the tree holds files of layers below."""
        return self.record.depends


def folder_of(store: Store, chain: Digest) -> Path:
    """The directory with layer.json, whether it is there or not."""
    return store.layers / chain.hex


def find(store: Store, chain: Digest) -> Layer | None:
    """The layer with that ChainID; None where it is not unpacked, or was damaged."""
    record = read(folder_of(store, chain) / RECORD)
    if record is None:
        return None
    layer = Layer(chain, tree_of(store, record) / DIFF, record)
    is_its_own = chain_ids([*([layer.parent] if layer.parent else []), layer.diff_id])[-1] == chain
    return layer if is_its_own and layer.path.is_dir() else None


def layers_of(store: Store, config: Config) -> list[Layer]:
    """The layers of an image, from the lowest up. Raises NotFoundError for the first that is missing."""
    found = []
    for diff_id, chain in zip(config.diff_ids, chain_ids(config.diff_ids), strict=True):
        layer = find(store, chain)
        if layer is None:
            raise NotFoundError(
                f"layer {diff_id} is not unpacked in the store {store.root}: pull or load the image"
            )
        found.append(layer)
    return found


def all_layers(store: Store) -> Iterator[Layer]:
    """Every unpacked layer, in no order."""
    for entry in sorted(store.layers.iterdir()):
        chain = chain_of(entry.name)
        layer = find(store, chain) if chain is not None else None
        if layer is not None:
            yield layer


def form_of(root: Path) -> str | None:
    """The form (`LayerForm.name`) of the layers of the store *root*; None where there is none yet."""
    for place in root.glob(f"layers/*/{RECORD}"):
        record = read(place)
        if record is not None:
            return record.form
    return None


def chain_of(name: str) -> Digest | None:
    """The ChainID for which a directory in layers/ stands; None for any other name."""
    try:
        return Digest(f"{'sha512' if len(name) == 128 else 'sha256'}:{name}")
    except ImageError:
        return None


def read(path: Path) -> Record | None:
    """A record; None where there is none. A malformed one is none either: the layer is made again."""
    try:
        record = decode(path.read_bytes(), Record, str(path))
        for each in (record.diff_id, record.blob, *([record.parent] if record.parent else [])):
            Digest(each)
    except (FileNotFoundError, ImageError):
        return None
    return record if chain_of(record.tree) is not None else None


def tree_of(store: Store, record: Record) -> Path:
    """The directory of a tree, which holds `diff`."""
    return store.trees / record.tree
