"""Whether an unpacked layer still holds what was unpacked.

A tree has no digest of its own: the DiffID is that of the tar, which cannot be made again from the tree byte
by byte. So a tree is compared with what its blob unpacks to now; and once that was found to be the same, or
the blob is about to be freed, the digest of the tree (`tree_digest.py`) is noted in tree.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from unionfs.errors import ImageError
from unionfs.image import blobs
from unionfs.image.digest import Digest
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import TREE_RECORD, Layer, find, read, tree_of
from unionfs.image.model import encode
from unionfs.image.one_pass import Stages, one_pass
from unionfs.image.store import Store
from unionfs.image.tree_digest import tree_digest


def noted_content(store: Store, layer: Layer) -> Digest | None:
    """The digest that the layer's tree had when it was known to be good."""
    record = read(tree_of(store, layer.record) / TREE_RECORD)
    return Digest(record.content) if record is not None and record.content is not None else None


def note_content(store: Store, layer: Layer) -> None:
    """Note the digest of a layer's tree, which is as it must be, or as far as is known."""
    if noted_content(store, layer) is None:
        record = replace(layer.record, content=tree_digest(layer.path))
        store.write(tree_of(store, layer.record) / TREE_RECORD, encode(record))


def unpack_again(store: Store, layer: Layer, target: Path, limit: int) -> None:
    """Unpack a layer's blob once more, into *target*. Raises ImageError if it is not there, or is damaged."""
    form = LayerForm.of_process()
    if form.name != layer.record.form:
        raise ImageError(
            f"layer {layer.diff_id} is unpacked in the form {layer.record.form}: it cannot be unpacked again"
            f" by a process that writes the form {form.name}"
        )
    target.mkdir(parents=True)

    def parents() -> Sequence[Path]:
        return [each.path for each in _below(store, layer)]

    with blobs.open_blob(store, layer.blob, f"layer {layer.blob}") as file:
        one_pass(file, _nothing, layer.blob, layer.diff_id, target, parents, form, limit, Stages())


def _nothing() -> None:
    pass


def _below(store: Store, layer: Layer) -> list[Layer]:
    found = []
    parent: Digest | None = layer.parent
    while parent is not None:
        below = find(store, parent)
        if below is None:
            raise ImageError(f"layer {layer.diff_id}: the layer below it, {parent}, is not unpacked")
        found.append(below)
        parent = below.parent
    return found
