"""A layer as the tar that it was unpacked from, from whichever blob of the store has that content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unionfs.errors import NotFoundError
from unionfs.image import blobs
from unionfs.image.compression import decompressed
from unionfs.image.digest import Digest, Readable, VerifyingReader
from unionfs.image.layer_record import find
from unionfs.image.model import Descriptor
from unionfs.image.store import Store

_BLOCK = 1 << 20
_ENDLESS = 1 << 62
"""What is in the store was within the limit when it came."""


@contextmanager
def open_tar(store: Store, layer: Descriptor, diff_id: Digest, chain: Digest) -> Iterator[Readable]:
    """The tar, which raises ImageError at its end where it does not match. Raises NotFoundError."""
    blob = _blob(store, layer, diff_id, chain)
    what = f"layer {blob}"
    with blobs.open_blob(store, blob, what) as file:
        plain: Readable = file if blob == diff_id else decompressed(file, what, _ENDLESS)
        yield VerifyingReader(plain, diff_id, None, what)


def tar_size(store: Store, layer: Descriptor, diff_id: Digest, chain: Digest) -> int:
    """Bytes of the tar; it is decompressed to count them."""
    if _blob(store, layer, diff_id, chain) == diff_id:
        return blobs.path_of(store, diff_id).stat().st_size
    size = 0
    with open_tar(store, layer, diff_id, chain) as source:
        while block := source.read(_BLOCK):
            size += len(block)
    return size


def _blob(store: Store, layer: Descriptor, diff_id: Digest, chain: Digest) -> Digest:
    """A blob with that content: the image's own, or the one from which the layer was unpacked for another."""
    unpacked = find(store, chain)
    for blob in (layer.id, diff_id, *([unpacked.blob] if unpacked is not None else [])):
        if blobs.has(store, blob):
            return blob
    raise NotFoundError(
        f"layer {diff_id}: its blob {layer.digest} is not in the store (`prune --blobs` frees blobs):"
        " pull or load the image again"
    )
