"""The tar stream of a new layer becomes a blob of the store: its DiffID, compressed, its digest, in one pass.

What makes the stream runs beside this: hashing, compressing and writing release the interpreter lock. Nothing
gets a place among the blobs before all of it was written.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from unionfs.image import blobs
from unionfs.image.compression import Compressor
from unionfs.image.digest import Digest, Hasher
from unionfs.image.model import OCI_LAYER, Descriptor
from unionfs.image.store import Store

_DEPTH = 8
"""Blocks that are waiting, of a MiB at most (`tar_write`)."""
_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer in the store: what it is called compressed, and what its content is."""

    descriptor: Descriptor
    diff_id: Digest


class LayerStream:
    """What `new_layer` gives: `write` takes the tar; after the block is over, `blob` is what it became."""

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self._file = file
        self._diff = Hasher()
        self._stored = Hasher()
        self._compressor = Compressor(self._store, compression)
        self._is_plain = compression == "none"
        self._blocks: queue.Queue[bytes] = queue.Queue(_DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layer", daemon=True)
        self._thread.start()
        self.blob: LayerBlob | None = None

    def write(self, block: bytes) -> None:
        """Take a block of the tar. Raises what has failed meanwhile."""
        if self._error is not None:
            raise self._error
        if block:
            self._blocks.put(block)

    def end(self) -> None:
        """Wait until all that was taken is written; more than once does no harm."""
        if self._thread.is_alive():
            self._blocks.put(b"")
            self._thread.join()
        if self._error is not None:
            raise self._error

    def digests(self) -> tuple[Digest, Digest, int]:
        """DiffID, the blob's digest and its size, after the end."""
        stored = self._diff if self._is_plain else self._stored
        return self._diff.digest(), stored.digest(), stored.size

    def _run(self) -> None:
        """After a failure blocks are still taken, so that no writer waits for ever."""
        while block := self._blocks.get():
            if self._error is not None:
                continue
            try:
                self._diff.update(block)
                self._compressor.write(block)
            except BaseException as error:
                self._error = error
        if self._error is None:
            try:
                self._compressor.close()
            except BaseException as error:
                self._error = error

    def _store(self, block: bytes) -> None:
        if not self._is_plain:
            self._stored.update(block)
        self._file.write(block)


@contextmanager
def new_layer(store: Store, compression: str) -> Iterator[LayerStream]:
    """A layer whose tar is written in the block; it is a blob of the store when the block ends.

    *compression*: none, gzip or zstd. If the block raises, nothing is stored. The caller holds
    `Store.in_use` until something refers to the blob.
    """
    with store.claim(f"layer-blob-{os.getpid()}-{threading.get_native_id()}") as place:
        part = place / "data"
        try:
            with part.open("wb") as file:
                stream = LayerStream(file, compression)
                try:
                    yield stream
                finally:
                    stream.end()
            diff_id, digest, size = stream.digests()
            if not blobs.has(store, digest):
                blobs.publish(store, part, digest)
            stream.blob = LayerBlob(Descriptor(OCI_LAYER + _SUFFIX[compression], digest, size), diff_id)
        finally:
            part.unlink(missing_ok=True)
