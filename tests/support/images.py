"""Images that are planted in a store: directories as layers, without a tar or a blob of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unionfs.image import blobs, index, layer_record, names
from unionfs.image.digest import Digest, digest_of
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import Record
from unionfs.image.model import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, chain_ids, encode
from unionfs.image.store import Store

Tree = Mapping[str, bytes | None]
"""Content of files by their paths; None is a directory, and a whiteout where the name ends in `-`."""


Filler = Callable[[Path], None]
"""Makes the content of an empty directory, which is known by the function's name."""


def plant(store: Store, name: str, layers: Iterable[Tree | Filler], **config: Any) -> Descriptor:
    """An image with these layers, the lowest first, and this `config` section. Equal layers share a tree."""
    ids = [plant_layer(store, layer) for layer in layers]
    for parent, diff_id, chain in zip([None, *chain_ids(ids)], ids, chain_ids(ids), strict=False):
        _record(store, diff_id, chain, parent)
    document = encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
        }
    )
    described = Descriptor(OCI_CONFIG, blobs.put_bytes(store, document), len(document))
    content = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described,
            "layers": [{"mediaType": OCI_LAYER, "digest": each, "size": 1} for each in ids],
        }
    )
    manifest = Descriptor(OCI_MANIFEST, blobs.put_bytes(store, content), len(content))
    index.add(store, manifest, names.parse(name).tagged())
    return manifest


def plant_layer(store: Store, layer: Tree | Filler) -> Digest:
    """The tree of a layer; its DiffID is made up from the content."""
    known = layer.__qualname__ if callable(layer) else repr(sorted(layer.items()))
    diff_id = digest_of(known.encode())
    tree = store.trees / diff_id.hex / layer_record.DIFF
    if not tree.exists():
        tree.mkdir(parents=True)
        if callable(layer):
            layer(tree)
            return diff_id
        for path, content in layer.items():
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("-"):
                os.mknod(target.with_name(target.name[:-1]), 0o20000, 0)
            elif content is None:
                target.mkdir(exist_ok=True)
            else:
                target.write_bytes(content)
    return diff_id


def _record(store: Store, diff_id: Digest, chain: Digest, parent: Digest | None) -> None:
    folder = layer_record.folder_of(store, chain)
    folder.mkdir(exist_ok=True)
    record = Record(diff_id, diff_id.hex, 0, 0, LayerForm.of_process().name, diff_id, 0, parent)
    (folder / layer_record.RECORD).write_bytes(encode(record))
    diff = folder / layer_record.DIFF
    if not diff.is_symlink():
        diff.symlink_to(Path("../../trees", diff_id.hex, layer_record.DIFF))
