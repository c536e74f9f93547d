"""gzip, zstd and no compression, as layers have them. Never gives out more than its limit allows.

The kind is read from the first bytes, as Docker and containerd do it: media types are often wrong. gzip is
isal's, three times as fast as zlib here; both libraries release the interpreter lock. Compressing gives the
same bytes for the same content and version of the library: no time and no name stand in the header.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Protocol, cast

import zstandard
from isal import isal_zlib

from unionfs.errors import ImageError
from unionfs.image.digest import Readable

_BLOCK = 256 << 10
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = (b"\x2a\x4d\x18", 0x50)
"""A skippable frame begins with a byte of 0x50 to 0x5f, then these (RFC 8878, 3.1.2)."""
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_GZIP_WBITS = 31
_ZSTD_WINDOW = 128 << 20
"""What a frame may demand of memory, as zstd(1) and containers-storage have it."""

_IsalError = cast(type[Exception], isal_zlib.error)  # its stub says that it is an instance

KINDS = ("none", "gzip", "zstd")
HEAD = 6
"""How many bytes tell by what a stream is compressed."""


def decompressed(source: Readable, what: str, limit: int) -> Readable:
    """The content of a stream. Raises ImageError, while reading, for what is malformed or over *limit* bytes.

    The source is read to its end, so that a digest that is computed from it is complete.
    """
    head, begun = beginning(source)
    if head.startswith(_GZIP):
        return _Limited(_Gzip(begun, what), what, limit)
    if head.startswith(_ZSTD) or _is_skippable(head):
        return _Limited(_Zstd(begun, what), what, limit)
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise ImageError(f"{what}: compressed by {name}, which no layer may be: gzip, zstd or none")
    return _Limited(begun, what, limit)


def kind_of(head: bytes) -> str:
    """`gzip`, `zstd` or `none`, of a stream that begins with these HEAD bytes."""
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head.startswith(_ZSTD) or _is_skippable(head) else "none"


def _is_skippable(head: bytes) -> bool:
    return len(head) >= 4 and head[0] & 0xF0 == _SKIPPABLE[1] and head[1:4] == _SKIPPABLE[0]


def beginning(source: Readable) -> tuple[bytes, Readable]:
    """The first HEAD bytes of a stream, or all if it has fewer; and the stream, which still has them."""
    head = b""
    while len(head) < HEAD and (block := source.read(HEAD - len(head))):
        head += block
    return head, _Begun(head, source)


class _Begun:
    """A source of which the first bytes have been read."""

    def __init__(self, head: bytes, source: Readable) -> None:
        self._head = head
        self._source = source

    def read(self, size: int, /) -> bytes:
        if self._head:
            block, self._head = self._head[:size], self._head[size:]
            return block
        return self._source.read(size)


class _Limited:
    """What decompressors give, in blocks of the size asked for, and no more than a limit."""

    def __init__(self, source: Readable, what: str, limit: int) -> None:
        self._source = source
        self._what = what
        self._limit = limit
        self._given = 0

    def read(self, size: int, /) -> bytes:
        block = self._source.read(size)
        self._given += len(block)
        if self._given > self._limit:
            raise ImageError(
                f"{self._what}: larger than {self._limit} bytes when decompressed;"
                " --max-layer-size sets the limit"
            )
        return block


class _Gzip:
    """Any number of members (RFC 1952, 2.2)."""

    def __init__(self, source: Readable, what: str) -> None:
        self._source = source
        self._what = what
        self._member = isal_zlib.decompressobj(_GZIP_WBITS)
        self._input = b""
        self._begun = False
        """Whether the current member has got input."""

    def read(self, size: int, /) -> bytes:
        while True:
            if self._member.eof:
                self._input = self._member.unused_data or self._source.read(_BLOCK)
                if not self._input:
                    return b""
                self._member = isal_zlib.decompressobj(_GZIP_WBITS)
                self._begun = False
            elif not self._input:
                self._input = self._source.read(_BLOCK)
                if not self._input:
                    if not self._begun:
                        return b""
                    raise ImageError(f"{self._what}: truncated: the gzip stream has no end")
            self._begun = True
            try:
                block = self._member.decompress(self._input, size)
            except _IsalError as error:
                raise ImageError(f"{self._what}: malformed gzip: {error}") from None
            self._input = b"" if self._member.eof else self._member.unconsumed_tail
            if block:
                return block


class _Zstd:
    """Any number of frames, skippable ones among them."""

    def __init__(self, source: Readable, what: str) -> None:
        self._frames = _Frames(source)
        self._what = what
        library = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        # The library asks for no more than `read`; its annotation for more.
        self._reader = library.stream_reader(
            cast(IO[bytes], self._frames), read_size=_BLOCK, read_across_frames=True
        )

    def read(self, size: int, /) -> bytes:
        try:
            block = self._reader.read(size)
        except zstandard.ZstdError as error:
            raise ImageError(f"{self._what}: malformed zstd: {error}") from None
        if not block and not self._frames.are_complete:
            raise ImageError(f"{self._what}: truncated: the zstd stream has no end")
        return block


class _Frames:
    """Passes a zstd stream on, and knows at its end whether the last frame was whole (RFC 8878, 3.1).

    The library takes the end of its input in the middle of a frame for the end of the data.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._skip = 0
        """How many bytes are still to come of what the last header described."""
        self._head = b""
        self._parse = self._frame
        self._has_checksum = False

    @property
    def are_complete(self) -> bool:
        return not self._skip and not self._head and self._parse == self._frame

    def read(self, size: int, /) -> bytes:
        block = self._source.read(size)
        # What is left of a header that has come in part is passed on already.
        unparsed, at = self._head + block, 0
        while at < len(unparsed):
            if self._skip:
                passed = min(self._skip, len(unparsed) - at)
                self._skip -= passed
            else:
                header = self._parse(unparsed[at : at + _LONGEST])
                if header is None:
                    break
                passed = header
            at += passed
        self._head = unparsed[at:]
        return block

    def _frame(self, head: bytes) -> int | None:
        """A frame's magic number and header; how long they are, or None for too few bytes."""
        if len(head) < 8:
            return None
        if _is_skippable(head):
            self._skip = int.from_bytes(head[4:8], "little")
            return 8
        described = head[4]
        single = described >> 5 & 1
        size = 5 + (not single) + (0, 1, 2, 4)[described & 3] + (single, 2, 4, 8)[described >> 6]
        if len(head) < size:
            return None
        self._has_checksum = bool(described & 4)
        self._parse = self._block
        return size

    def _block(self, head: bytes) -> int | None:
        """A block's header."""
        if len(head) < 3:
            return None
        header = int.from_bytes(head[:3], "little")
        self._skip = 1 if header >> 1 & 3 == _RLE else header >> 3
        if header & 1:
            self._skip += 4 * self._has_checksum
            self._parse = self._frame
        return 3


_LONGEST = 18
"""The length of the longest header."""
_RLE = 1
"""A block of one byte repeated."""


class Compressor:
    """Compresses what is written, into *sink*. `close` writes what is left, and must be called."""

    def __init__(self, sink: Callable[[bytes], object], kind: str) -> None:
        self._sink = sink
        self._stream: _Stream | None = None
        self._input = bytearray()
        if kind == "gzip":
            self._stream = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WBITS)
        elif kind == "zstd":
            self._stream = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
        elif kind != "none":
            raise ValueError(kind)

    def write(self, block: bytes) -> None:
        if self._stream is None:
            self._sink(block)
            return
        self._input += block
        # In blocks of one size, since isal's output depends on them.
        while len(self._input) >= _BLOCK:
            self._sink(self._stream.compress(bytes(self._input[:_BLOCK])))
            del self._input[:_BLOCK]

    def close(self) -> None:
        if self._stream is not None:
            self._sink(self._stream.compress(bytes(self._input)) + self._stream.flush())


class _Stream(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


_GZIP_LEVEL = 2
"""isal's best ratio but one."""
_ZSTD_LEVEL = 3
"""The library's and containerd's default."""
