"""A layer as the tar that it was unpacked from: by any blob of the store with that content, else made anew.

`prune --blobs` may have freed the blob. What commit and import write depends on nothing but the tree, so the
tar of such a layer comes out as it was; that of other programs mostly does not, and is refused. What is given
is always the DiffID's content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from unionfs.errors import NotFoundError
from unionfs.image import blobs
from unionfs.image.compression import decompressed
from unionfs.image.digest import Digest, Hasher, Readable, VerifyingReader
from unionfs.image.layer_content import LayerContent
from unionfs.image.layer_record import Layer, find
from unionfs.image.lowers import tree_paths
from unionfs.image.model import Descriptor
from unionfs.image.store import Store
from unionfs.image.tar_write import TarWriter
from unionfs.image.tree_entries import EntryWriter
from unionfs.linux.process import raise_open_file_limit
from unionfs.offline.changes import uses_userxattr
from unionfs.offline.layer_view import open_view

_BLOCK = 1 << 20
_ENDLESS = 1 << 62
"""What is in the store was within the limit when it came."""


class LayerTar:
    """A layer's tar, to be read once; the end raises ImageError where it is not the DiffID's content."""

    def __init__(self, path: Path, what: str, diff_id: Digest, *, is_plain: bool) -> None:
        self._path = path
        self._what = what
        self._diff_id = diff_id
        self._is_plain = is_plain
        self._file = path.open("rb", buffering=0)
        self._source = VerifyingReader(self._content(self._file), diff_id, None, what)

    def _content(self, file: Readable) -> Readable:
        return file if self._is_plain else decompressed(file, self._what, _ENDLESS)

    def read(self, size: int, /) -> bytes:
        return self._source.read(size)

    def size(self) -> int:
        """Bytes of all of it. What is compressed is decompressed to count them."""
        if self._is_plain:
            return self._path.stat().st_size
        with self._path.open("rb", buffering=0) as file:
            content = self._content(file)
            return sum(len(block) for block in iter(lambda: content.read(_BLOCK), b""))

    def close(self) -> None:
        self._file.close()


@contextmanager
def open_tar(store: Store, layer: Descriptor, diff_id: Digest, chain: Digest) -> Iterator[LayerTar]:
    """The tar of a layer, of which *layer* is the blob that an image names. The caller holds `Store.in_use`.

    Raises NotFoundError where the store has no blob with it any more, and its files make another.
    """
    with ExitStack() as stack:
        blob = _blob(store, layer, diff_id, chain)
        if blob is not None:
            path = blobs.path_of(store, blob)
        else:
            path = stack.enter_context(store.claim(f"tar-{chain.hex}")) / "tar"
            stack.callback(path.unlink, missing_ok=True)
            _make(store, layer, diff_id, chain, path)
        tar = LayerTar(path, f"layer {blob or diff_id}", diff_id, is_plain=blob in (None, diff_id))
        stack.callback(tar.close)
        yield tar


def _blob(store: Store, layer: Descriptor, diff_id: Digest, chain: Digest) -> Digest | None:
    """A blob with that content: the image's own, or the one from which the layer was unpacked for another."""
    unpacked = find(store, chain)
    for blob in (layer.id, diff_id, *([unpacked.blob] if unpacked is not None else [])):
        if blobs.has(store, blob):
            return blob
    return None


def _make(store: Store, layer: Descriptor, diff_id: Digest, chain: Digest, path: Path) -> None:
    """Write the tar of an unpacked layer, as commit writes it."""
    unpacked = find(store, chain)
    hasher = Hasher(diff_id.algorithm)
    if unpacked is not None:
        with path.open("wb") as file:

            def take(block: bytes) -> None:
                hasher.update(block)
                file.write(block)

            _write(unpacked, _below(store, unpacked), TarWriter(take))
    if hasher.digest() != diff_id:
        raise NotFoundError(
            f"layer {diff_id}: its blob {layer.digest} is not in the store (`prune --blobs` frees blobs), and"
            " a tar of its files is another: pull or load the image again"
        )


def _below(store: Store, layer: Layer) -> list[Layer]:
    """The layers below one, lowest first; none where one of them is gone."""
    found: list[Layer] = []
    parent = layer.parent
    while parent is not None:
        below = find(store, parent)
        if below is None:
            return []
        found.insert(0, below)
        parent = below.parent
    return found


def _write(layer: Layer, below: list[Layer], writer: TarWriter) -> None:
    raise_open_file_limit()
    upper = str(layer.path)
    lowers = [str(path) for path in tree_paths(below) if path != layer.path]
    with open_view(upper, lowers, userxattr=uses_userxattr(upper)) as view:
        LayerContent(view, _ignore).write(EntryWriter(view.fs, writer, _ignore))
    writer.close()


def _ignore(path: bytes, text: str) -> None:
    """What is remarked on leaves a mark in the digest."""
