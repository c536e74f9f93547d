"""The stream of an archive, decompressed: by bzip2 and xz, too, as Docker loads it; no layer may be so."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable

from unionfs.errors import ImageError
from unionfs.image.compression import beginning, decompressed, kind_of
from unionfs.image.digest import Readable

_BLOCK = 256 << 10
_MOST_MEMORY = 256 << 20
"""What an xz stream may demand; `xz -9` makes streams that want 65 MiB."""

_Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor

_OTHERS: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY)),
}


def tar_of(source: Readable, what: str, limit: int) -> Readable:
    """The content. Raises ImageError, while reading, for what is malformed or over *limit* bytes."""
    head, begun = beginning(source)
    for magic, (name, make) in _OTHERS.items():
        if head.startswith(magic):
            return _Other(begun, make, f"{what}: {name}", limit)
    return decompressed(begun, what, limit)


def is_compressed(head: bytes) -> bool:
    """Whether a stream that begins with these HEAD bytes is compressed."""
    return head.startswith(tuple(_OTHERS)) or kind_of(head) != "none"


class _Other:
    """One or more streams of bzip2 or xz."""

    def __init__(self, source: Readable, make: Callable[[], _Decompressor], what: str, limit: int) -> None:
        self._input = b""
        self._source = source
        self._make = make
        self._stream = make()
        self._what = what
        self._left = limit

    def read(self, size: int, /) -> bytes:
        while True:
            if self._stream.eof:
                self._input = self._stream.unused_data or self._source.read(_BLOCK)
                if not self._input:
                    return b""
                self._input = self._input.lstrip(b"\0")  # xz's padding between streams
                if not self._input:
                    continue
                self._stream = self._make()
            elif self._stream.needs_input and not self._input:
                self._input = self._source.read(_BLOCK)
                if not self._input:
                    raise ImageError(f"{self._what}: truncated")
            try:
                block = self._stream.decompress(self._input, size)
            except (lzma.LZMAError, OSError) as error:
                raise ImageError(f"{self._what}: malformed: {error}") from None
            self._input = b""
            self._left -= len(block)
            if self._left < 0:
                raise ImageError(f"{self._what}: too large when decompressed: see --max-layer-size")
            if block:
                return block
