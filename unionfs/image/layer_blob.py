"""The tar stream of a new layer becomes a blob of the store and a tree, in one pass:

    what makes the stream | DiffID, compression, digest, blob file
    ---- the caller ----- | ------------- one thread -------------
                          | tar entries, files
                          | - another thread -

Hashing, compressing and writing release the interpreter lock. Nothing gets a place before all was written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unionfs.image import blobs, layers
from unionfs.image.compression import Compressor
from unionfs.image.digest import Digest, Hasher, Readable
from unionfs.image.ingest import MadeTree
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import DIFF, Layer
from unionfs.image.model import OCI_LAYER, Descriptor
from unionfs.image.store import Store, clear
from unionfs.image.unpack import Unpacked, unpack
from unionfs.image.write_behind import WriteBehind

_BLOCK = 1 << 20
_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer in the store: what it is called compressed, what its content is, and its tree."""

    descriptor: Descriptor
    diff_id: Digest
    layer: Layer


class LayerStream:
    """What `new_layer` gives: `write` takes the tar; after the block is over, `blob` is what it became."""

    def __init__(self, compressed: WriteBehind[Stored], unpacked: WriteBehind[Unpacked]) -> None:
        self._compressed = compressed
        self._unpacked = unpacked
        self.blob: LayerBlob | None = None

    def write(self, block: bytes) -> None:
        """Take a block of the tar. Raises what has failed meanwhile.

        What is wrong with the tar, `new_layer` raises after the last block: what makes the stream may know
        better what it is.
        """
        if self._compressed.error is not None:
            raise self._compressed.error
        self._compressed.write(block)
        self._unpacked.write(block)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a stream became in a file."""

    diff_id: Digest
    digest: Digest
    size: int


def _compress(source: Readable, file: BinaryIO, compression: str) -> Stored:
    diff, stored = Hasher(), Hasher()

    def store(block: bytes) -> None:
        if compression != "none":
            stored.update(block)
        file.write(block)

    compressor = Compressor(store, compression)
    while block := source.read(_BLOCK):
        diff.update(block)
        compressor.write(block)
    compressor.close()
    file.flush()
    if compression == "none":
        return Stored(diff.digest(), diff.digest(), diff.size)
    return Stored(diff.digest(), stored.digest(), stored.size)


@contextmanager
def new_layer(
    store: Store, compression: str, diff_ids: Sequence[Digest], below: Sequence[Path]
) -> Iterator[LayerStream]:
    """A layer whose tar is written in the block; at its end it is in the store, unpacked and as a blob.

    *compression*: none, gzip or zstd. *diff_ids* are those of the layers below it, lowest first, and *below*
    their trees, topmost first. If the block raises, nothing is stored. Raises ImageError for what the layer
    must not be. The caller holds `Store.in_use` until something refers to the blob.
    """
    form = LayerForm.of_store(store)
    with store.claim(f"new-layer-{os.getpid()}-{threading.get_native_id()}") as place:
        try:
            clear(place)
            part, tree = place / "data", place / "tree"
            (tree / DIFF).mkdir(parents=True)
            with part.open("wb") as file:
                os.fchmod(file.fileno(), blobs.MODE)
                stages = (
                    WriteBehind(lambda source: _compress(source, file, compression), "compress"),
                    WriteBehind(
                        lambda source: unpack(source, tree / DIFF, lambda: below, form, "the new layer"),
                        "unpack",
                    ),
                )
                try:
                    stream = LayerStream(*stages)
                    yield stream
                    stored, unpacked = stages[0].end(), stages[1].end()
                finally:
                    for stage in stages:
                        stage.stop()
            described = Descriptor(OCI_LAYER + _SUFFIX[compression], stored.digest, stored.size)
            made = MadeTree(tree, unpacked)
            layer = layers.add(store, described, part, stored.diff_id, diff_ids, made, form)
            stream.blob = LayerBlob(described, stored.diff_id, layer)
        finally:
            clear(place)
