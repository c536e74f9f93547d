"""Blobs: content under its digest. What enters is verified first; what is there is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from unionfs.errors import ImageError, NotFoundError
from unionfs.image.digest import Digest, Readable, VerifyingReader, digest_of
from unionfs.image.model import MOST_BYTES, Descriptor
from unionfs.image.store import Store, sync_directory

_BLOCK = 1 << 20
MODE = 0o644
"""Of a blob's file."""


def path_of(store: Store, digest: Digest) -> Path:
    """Where a blob lies, whether it is there or not."""
    return store.blobs / digest.algorithm / digest.hex


def has(store: Store, digest: Digest) -> bool:
    """Whether a blob is there."""
    return path_of(store, digest).exists()


def read_small(store: Store, descriptor: Descriptor, what: str) -> bytes:
    """A manifest, index or config, verified once more: it is small, and decides about all else.

    Raises NotFoundError where it is not there, ImageError where it is not what its descriptor says.
    """
    if descriptor.size > MOST_BYTES:
        raise ImageError(f"{what}: {descriptor.size} bytes, where at most {MOST_BYTES} are read")
    with open_blob(store, descriptor.id, what) as file:
        reader = VerifyingReader(file, descriptor.id, descriptor.size, what)
        return b"".join(iter(lambda: reader.read(_BLOCK), b""))


def open_blob(store: Store, digest: Digest, what: str) -> BlobFile:
    """A blob, to be read. Raises NotFoundError where it is not in the store."""
    try:
        return BlobFile(os.open(path_of(store, digest), os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        raise NotFoundError(f"{what}: {digest} is not in the store {store.root}") from None


class BlobFile:
    """An open blob, unbuffered."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self.fd, size)

    def __enter__(self) -> BlobFile:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


def put_bytes(store: Store, content: bytes) -> Digest:
    """Store content that was made here."""
    return put_all(store, [content])[0]


def put_all(store: Store, contents: Sequence[bytes]) -> list[Digest]:
    """Store contents that were made here; their digests. All are on disk when this returns."""
    digests = [digest_of(content) for content in contents]
    made = False
    for digest, content in zip(digests, contents, strict=True):
        if not has(store, digest):
            with store.claim(f"blob-{digest.hex}") as place:
                part = place / "data"
                part.write_bytes(content)
                sync_content(part)
                give_place(store, part, digest)
                made = True
    if made:
        sync_directory(store.blobs / "sha256")
    return digests


def put(store: Store, source: Readable, descriptor: Descriptor, what: str, *, again: bool = False) -> None:
    """Store a blob as it streams by. A mismatch of digest or size raises ImageError and stores nothing.

    With *again* it takes the place of one that is there already, which is damaged.
    """
    if has(store, descriptor.id) and not again:
        return
    with store.claim(f"blob-{descriptor.id.hex}") as place:
        if has(store, descriptor.id) and not again:
            return
        part = place / "data"
        reader = VerifyingReader(source, descriptor.id, descriptor.size, what)
        try:
            with part.open("wb") as file:
                while block := reader.read(_BLOCK):
                    file.write(block)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        publish(store, part, descriptor.id)


def publish(store: Store, part: Path, digest: Digest) -> None:
    """Give a file in a claimed directory, whose content is known to match, its place among the blobs.

    Content and name are on disk when this returns.
    """
    sync_content(part)
    sync_directory(give_place(store, part, digest).parent)


def sync_content(part: Path) -> None:
    """Have a file on disk that is to be a blob."""
    fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(fd, MODE)
        os.fsync(fd)
    finally:
        os.close(fd)


def give_place(store: Store, part: Path, digest: Digest) -> Path:
    """As `publish`, of a file that is on disk, with MODE; its name is not before the directory is synced."""
    target = path_of(store, digest)
    target.parent.mkdir(exist_ok=True)
    os.rename(part, target)
    return target


def all_blobs(store: Store) -> Iterator[tuple[Digest, int]]:
    """Each blob's digest and size. What has no digest for a name is passed over."""
    for algorithm in os.scandir(store.blobs):
        for entry in os.scandir(algorithm.path):
            with suppress(ImageError):
                yield Digest(f"{algorithm.name}:{entry.name}"), entry.stat().st_size
