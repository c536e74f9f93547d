"""The maps of sparse files in tar archives, in GNU's four forms (GNU tar manual, appendix D).

A map is the file's size and where its data lies. Raises ValueError for malformed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unionfs.image.tar_pax import Records

Extent = tuple[int, int]
"""Offset and length in the file."""
Map = tuple[int, list[Extent]]

_MOST = 1 << 20
"""The most bytes of a map that are read."""


def old_gnu(header: bytes, next_block: Callable[[], bytes]) -> Map:
    """Four extents in the header, 21 in each block that follows it."""
    extents = _fields(header[386:482])
    more, blocks = header[482], 0
    while more:
        block = next_block()
        blocks += 1
        if blocks * 512 > _MOST:
            raise ValueError("a map of a sparse file that is too long")
        extents += _fields(block[:504])
        more = block[504]
    return _octal(header[483:495]), extents


def _fields(block: bytes) -> list[Extent]:
    found = []
    for at in range(0, len(block) - 23, 24):
        if not block[at]:
            break
        found.append((_octal(block[at : at + 12]), _octal(block[at + 12 : at + 24])))
    return found


def _octal(text: bytes) -> int:
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.strip(b" \0")
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise ValueError("a map of a sparse file that has no numbers")
    return int(digits, 8)


def pax_0(records: Records) -> Map | None:
    """Versions 0.0 and 0.1: records, several of each or one with commas. None for what is not sparse."""
    values = records.values
    if b"GNU.sparse.map" in values:
        text = values[b"GNU.sparse.map"]
        numbers = [_decimal(each) for each in text.split(b",")] if text else []
    elif records.sparse:
        keywords = [keyword for keyword, _ in records.sparse]
        if keywords != [b"GNU.sparse.offset", b"GNU.sparse.numbytes"] * (len(keywords) // 2):
            raise ValueError("a map of a sparse file in disorder")
        numbers = [_decimal(value) for _, value in records.sparse]
    elif b"GNU.sparse.size" in values:
        numbers = []
    else:
        return None
    if len(numbers) % 2:
        raise ValueError("a map of a sparse file that lacks a length")
    return _decimal(values.get(b"GNU.sparse.size", b"")), list(zip(numbers[::2], numbers[1::2], strict=True))


def pax_1(values: Mapping[bytes, bytes], next_block: Callable[[], bytes]) -> Map:
    """Version 1.0: decimal lines before the data, filled up to a block."""
    text, read = b"", 0

    def number() -> int:
        nonlocal text, read
        while b"\n" not in text:
            text += next_block()
            read += 512
            if read > _MOST:
                raise ValueError("a map of a sparse file that is too long")
        line, _, text = text.partition(b"\n")
        return _decimal(line)

    count = number()
    if count > _MOST:
        raise ValueError("a map of a sparse file that is too long")
    extents = [(number(), number()) for _ in range(count)]
    return _decimal(values.get(b"GNU.sparse.realsize", b"")), extents


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ValueError("a map of a sparse file that has no numbers")
    return int(text)


def check(found: Map, stored: int) -> None:
    """Extents must be in order, apart from each other, within the file, and as long as the stored data."""
    size, extents = found
    at = 0
    for offset, length in extents:
        if offset < at or offset + length > size:
            raise ValueError("a map of a sparse file that leads outside of it or is in disorder")
        at = offset + length
    if size >= 1 << 63 or sum(length for _, length in extents) != stored:
        raise ValueError("a map of a sparse file that does not fit its data")
