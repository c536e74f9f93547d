"""What tests of the store share: images in memory, and a source of their layers that counts and fails."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testing.images import Image
from unionfs.errors import ImageError
from unionfs.image import blobs, index, layers, names
from unionfs.image.digest import Digest, Readable, digest_of
from unionfs.image.layer_record import Layer
from unionfs.image.model import Config, Descriptor, Manifest, decode_config, decode_manifest
from unionfs.image.store import Store

_MEMORY = Path("/dev/shm")


class Source:
    """Opens layers of images in memory; counts, and can be made to fail."""

    def __init__(self, *images: Image) -> None:
        self.content = {digest_of(blob): blob for each in images for blob in each.blobs}
        self.opened: list[tuple[Digest, int]] = []
        self.breaks_at: int | None = None
        self.wait: Callable[[Digest], None] = lambda digest: None
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, layer: Descriptor, offset: int, /) -> Iterator[Readable]:
        with self._lock:
            self.opened.append((layer.id, offset))
        self.wait(layer.id)
        yield _Stream(self.content[layer.id], offset, self.breaks_at)


class _Stream:
    def __init__(self, content: bytes, at: int, breaks_at: int | None) -> None:
        self.content, self.at, self.breaks_at = content, at, breaks_at

    def read(self, size: int, /) -> bytes:
        if self.breaks_at is not None:
            if self.at >= self.breaks_at:
                raise ImageError("connection lost")
            size = min(size, self.breaks_at - self.at)
        block = self.content[self.at : self.at + size]
        self.at += len(block)
        return block


def documents(made: Image) -> tuple[Manifest, Config]:
    """An image's manifest and config."""
    manifest = decode_manifest(made.manifest, None, "manifest")
    assert isinstance(manifest, Manifest)
    return manifest, decode_config(made.config, manifest, "config")


def ensure(store: Store, made: Image, source: Source, *, keep_blobs: bool = True) -> list[Layer]:
    """`layers.ensure`, as commands call it."""
    manifest, config = documents(made)
    with store.in_use():
        return layers.ensure(store, manifest, config, source, keep_blobs=keep_blobs)


def add(store: Store, made: Image, *tags: str, repo_digest: str | None = None) -> list[Layer]:
    """Unpack an image and give it these names; returns its layers."""
    found = ensure(store, made, Source(made))
    for content in (made.config, made.manifest):
        blobs.put_bytes(store, content)
    manifest = Descriptor(made.media_type, made.digest, len(made.manifest))
    digest = None if repo_digest is None else names.parse(repo_digest)
    for tag in tags or (None,):
        index.add(store, manifest, None if tag is None else names.parse(tag).tagged(), digest)
    return found


@contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A directory on a tmpfs, where a sync costs nothing; *otherwise* where none has user.* attributes."""
    if not _has_attributes(_MEMORY):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="pyunionfs-", dir=_MEMORY) as place:
        yield Path(place)


def _has_attributes(place: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            os.setxattr(file.fileno(), "user.probe", b"")
    except OSError:
        return False
    return True
