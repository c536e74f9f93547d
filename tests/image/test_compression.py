"""Layers' compression: every legal form of a stream, and each malformed one refused."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest
import zstandard

from unionfs.errors import ImageError
from unionfs.image.compression import KINDS, Compressor, decompressed

TEXT = b"".join(b"line %d of some text\n" % number for number in range(20_000))
SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def zstd(content: bytes, *, checksum: bool = True, sized: bool = True) -> bytes:
    if sized:
        return zstandard.ZstdCompressor(write_checksum=checksum).compress(content)
    stream = zstandard.ZstdCompressor(write_checksum=checksum).compressobj()
    return stream.compress(content) + stream.flush()


def read(stream: bytes, *, limit: int = 1 << 30, block: int = 1000, source_block: int = 1 << 30) -> bytes:
    class Small(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(source_block, size or 0))

    source = Small(stream)
    content = decompressed(source, "layer x", limit)
    found = b"".join(iter(lambda: content.read(block), b""))
    assert source.tell() == len(stream), "the digest of the stream is known only when all of it was read"
    return found


WHOLE = {
    "none": (TEXT, TEXT),
    "nothing": (b"", b""),
    "short": (b"abc", b"abc"),
    "gzip": (gzip.compress(TEXT), TEXT),
    "gzip of nothing": (gzip.compress(b""), b""),
    "gzip members": (gzip.compress(TEXT) + gzip.compress(b"") + gzip.compress(b"end"), TEXT + b"end"),
    "stored gzip": (gzip.compress(TEXT, 0), TEXT),
    "zstd": (zstd(TEXT), TEXT),
    "zstd without checksum and size": (zstd(TEXT, checksum=False, sized=False), TEXT),
    "zstd of nothing": (zstd(b""), b""),
    "zstd frames": (zstd(TEXT) + zstd(b"", sized=False) + zstd(b"end"), TEXT + b"end"),
    "skippable frames": (SKIPPABLE + zstd(TEXT) + SKIPPABLE + zstd(b"end") + SKIPPABLE, TEXT + b"end"),
    "zstd of one byte": (zstd(bytes(1 << 20)), bytes(1 << 20)),
}


@pytest.mark.parametrize("source_block", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("name", WHOLE)
def test_streams(name: str, source_block: int) -> None:
    stream, content = WHOLE[name]
    assert read(stream, source_block=source_block, block=1 << 16) == content


MALFORMED = {
    "gzip with garbage after it": (gzip.compress(b"a") + b"garbage garbage", "malformed gzip"),
    "gzip with a wrong checksum": (gzip.compress(TEXT)[:-8] + bytes(8), "malformed gzip"),
    "gzip of an unknown method": (b"\x1f\x8b\x07" + bytes(30), "malformed gzip"),
    "zstd with garbage after it": (zstd(TEXT) + b"garbage garbage", "malformed zstd"),
    "zstd with a wrong checksum": (zstd(TEXT)[:-4] + bytes(4), "malformed zstd"),
    "zstd that demands gigabytes": (b"\x28\xb5\x2f\xfd\x00\xff" + bytes(20), "malformed zstd"),
    "bzip2": (b"BZh91AY&SY", "bzip2"),
    "xz": (b"\xfd7zXZ\x00\x00", "xz"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_streams(name: str) -> None:
    stream, about = MALFORMED[name]
    with pytest.raises(ImageError, match=f"layer x: .*{about}"):
        read(stream)


@pytest.mark.parametrize(
    "stream",
    [gzip.compress(TEXT[:500]), zstd(TEXT[:500]), zstd(TEXT[:500]) + SKIPPABLE],
    ids=["gzip", "zstd", "two"],
)
def test_a_stream_that_is_cut_short_anywhere_is_refused(stream: bytes) -> None:
    whole = len(zstd(TEXT[:500]))
    for end in range(6, len(stream)):
        if stream.endswith(SKIPPABLE) and end == whole:
            continue
        with pytest.raises(ImageError, match=r"truncated|malformed"):
            read(stream[:end])


@pytest.mark.parametrize(
    "stream",
    [gzip.compress(bytes(10 << 20)), zstd(bytes(10 << 20)), bytes(10 << 20)],
    ids=["gzip", "zstd", "none"],
)
def test_no_more_is_given_than_the_limit(stream: bytes) -> None:
    assert len(read(stream, limit=10 << 20, block=1 << 16)) == 10 << 20
    content = decompressed(io.BytesIO(stream), "layer x", (10 << 20) - 1)
    given = 0
    with pytest.raises(ImageError, match="larger than 10485759 bytes"):
        while block := content.read(1 << 16):
            given += len(block)
    assert given < 10 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_compressed_is_read_again_and_is_the_same_each_time(kind: str) -> None:
    streams = []
    for size in (100, 100_000):
        blocks: list[bytes] = []
        compressor = Compressor(blocks.append, kind)
        for at in range(0, len(TEXT), size):
            compressor.write(TEXT[at : at + size])
        compressor.close()
        streams.append(b"".join(blocks))
    assert read(streams[0], block=1 << 16) == TEXT
    assert streams[0] == streams[1]
    if kind == "gzip":
        assert zlib.decompress(streams[0], 31) == TEXT
        assert streams[0][3:8] == bytes(5), "neither a name nor a time"
