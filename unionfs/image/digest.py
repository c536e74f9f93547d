"""Digests, and reading what must have one. Never lets content through that does not match.

A digest is `sha256:` and 64 hexadecimal digits (OCI image-spec, descriptor.md). sha512, the only other
registered algorithm, is read and verified, too.
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from unionfs.errors import ImageError

_LENGTHS = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"(sha256|sha512):([0-9a-f]+)")


class Digest(str):
    """A valid digest, as text. `Digest(text)` raises ImageError for anything else."""

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        found = _FORM.fullmatch(text)
        if found is None or len(found[2]) != _LENGTHS[found[1]]:
            raise ImageError(
                f"{text[:100]!r} is not a digest: sha256: and 64 hexadecimal digits are expected"
            )
        return super().__new__(cls, text)

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """What follows the colon."""
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first twelve digits, as Docker shows an id."""
        return self.hex[:12]


def digest_of(content: bytes) -> Digest:
    """The sha256 of bytes."""
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


class Hasher:
    """Digest and size of what passes by. `update` releases the interpreter lock for large blocks."""

    __slots__ = ("_algorithm", "_hash", "size")

    def __init__(self, algorithm: str = "sha256") -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.size = 0

    def update(self, block: bytes | bytearray | memoryview) -> None:
        self._hash.update(block)
        self.size += len(block)

    def digest(self) -> Digest:
        return Digest(f"{self._algorithm}:{self._hash.hexdigest()}")


class Readable(Protocol):
    """What a blob or a tar stream is read from: `read` returns at most *size* bytes, b"" at the end."""

    def read(self, size: int, /) -> bytes: ...


class VerifyingReader:
    """Reads a stream whose digest and size are known; the end raises ImageError if they differ.

    *what* names the content in the message. At most *size* + 1 bytes are ever read, so that a stream without
    end is refused. A reader must read to the end before the content counts.
    """

    __slots__ = ("_digest", "_ended", "_hasher", "_size", "_source", "_verified", "_what")

    def __init__(self, source: Readable, digest: Digest, size: int | None, what: str) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._what = what
        self._hasher = Hasher(digest.algorithm)
        self._ended = False
        self._verified = False

    @property
    def is_verified(self) -> bool:
        """Whether the end was reached, and all is as it must be."""
        return self._verified

    def read(self, size: int, /) -> bytes:
        if self._ended:
            return b""
        if self._size is not None:
            size = min(size, self._size + 1 - self._hasher.size)
        block = self._source.read(size)
        self._hasher.update(block)
        if self._size is not None and self._hasher.size > self._size:
            raise ImageError(f"{self._what}: larger than the {self._size} bytes that its descriptor says")
        if not block:
            self._ended = True
            self._verify()
        return block

    def _verify(self) -> None:
        if self._size is not None and self._hasher.size != self._size:
            raise ImageError(
                f"{self._what}: ends after {self._hasher.size} of the {self._size} bytes"
                " that its descriptor says"
            )
        found = self._hasher.digest()
        if found != self._digest:
            raise ImageError(f"{self._what}: expected digest {self._digest}, got {found}: nothing was stored")
        self._verified = True
