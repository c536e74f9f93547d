"""Tar entries made byte by byte, malformed ones too; what tarfile would refuse to write."""

from __future__ import annotations

END = bytes(1024)


def number(value: int, width: int) -> bytes:
    """Octal where it fits, else base-256."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0x80]) + value.to_bytes(width - 1, "big", signed=value < 0)


def entry(
    name: bytes,
    kind: bytes = b"0",
    *,
    data: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    linkname: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    size: int | None = None,
    raw_size: bytes | None = None,
    checksum: bytes | None = None,
    signed: bool = False,
) -> bytes:
    """A ustar header with its data, filled up to blocks."""
    header = b"".join(
        (
            name.ljust(100, b"\0")[:100],
            *(number(mode, 8), number(uid, 8), number(gid, 8)),
            number(len(data) if size is None else size, 12) if raw_size is None else raw_size,
            number(mtime, 12) + b" " * 8 + kind + linkname.ljust(100, b"\0")[:100],
            b"ustar\x0000" + bytes(64) + number(device[0], 8) + number(device[1], 8),
            prefix.ljust(155, b"\0") + bytes(12),
        )
    )
    total = sum(header) - (256 * sum(byte > 127 for byte in header) if signed else 0)
    header = header[:148] + (b"%06o\0 " % total if checksum is None else checksum) + header[156:]
    return header + data + bytes(-len(data) % 512)


def record(keyword: bytes, value: bytes) -> bytes:
    """One PAX record; its length counts its own digits."""
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def pax(records: dict[bytes, bytes] | bytes, kind: bytes = b"x") -> bytes:
    """A PAX header, of records or of raw content."""
    if isinstance(records, dict):
        records = b"".join(record(keyword, value) for keyword, value in records.items())
    return entry(b"PaxHeaders/x", kind, data=records)


def gnu_long(kind: bytes, name: bytes) -> bytes:
    """GNU's long name (b"L") or link name (b"K") for the next entry."""
    return entry(b"././@LongLink", kind, data=name + b"\0")
