"""The records of PAX headers (POSIX.1-2017, pax, Extended Header). Raises ValueError for malformed ones."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

_SCHILY = b"SCHILY.xattr."
_LIBARCHIVE = b"LIBARCHIVE.xattr."
_SPARSE_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]*))?")


class Records(NamedTuple):
    """Keywords and values, the last of each; *sparse* has those of which several make a map, in order."""

    values: dict[bytes, bytes]
    sparse: list[tuple[bytes, bytes]]


def parse_records(content: bytes) -> Records:
    """`LENGTH KEYWORD=VALUE` and a newline each; the length counts all of it."""
    values: dict[bytes, bytes] = {}
    sparse: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(content):
        blank = content.find(b" ", at, at + 20)
        length = content[at:blank]
        if blank < 0 or not length.isdigit():
            if not content[at:].strip(b"\0"):
                break  # some fill it up
            raise ValueError("a PAX record without a length")
        end = at + int(length)
        keyword, equals, value = content[blank + 1 : end - 1].partition(b"=")
        if end > len(content) or content[end - 1 : end] != b"\n" or not equals or not keyword:
            raise ValueError("a malformed PAX record")
        if keyword in _SPARSE_PAIR:
            sparse.append((keyword, value))
        values[keyword] = value
        at = end
    return Records(values, sparse)


def parse_time(text: bytes) -> int:
    """Decimal seconds as nanoseconds; what is finer is cut off towards the past."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("a time that is no number")
    digits = found[3] or b""
    nanoseconds = int(found[2]) * 1_000_000_000 + int(digits[:9].ljust(9, b"0"))
    if found[1]:
        return -nanoseconds - bool(digits[9:].strip(b"0"))
    return nanoseconds


def parse_xattrs(values: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Extended attributes, in both spellings: star's, with the value itself, and libarchive's, in base64."""
    found: dict[bytes, bytes] = {}
    for keyword, value in values.items():
        if keyword.startswith(_LIBARCHIVE):
            try:
                value = value.rstrip(b"=")  # libarchive leaves the padding out
                decoded = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
            except binascii.Error:
                raise ValueError("an extended attribute that is no base64") from None
            found.setdefault(unquote_to_bytes(keyword[len(_LIBARCHIVE) :]), decoded)
        elif keyword.startswith(_SCHILY):
            found[keyword[len(_SCHILY) :]] = value
    if any(not name or b"\0" in name or len(name) > 255 for name in found):
        raise ValueError("an extended attribute without a proper name")
    return found
