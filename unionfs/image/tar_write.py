"""Writing tar streams that depend on nothing but what is written: the form of layers that are made here.

ustar (POSIX.1-2017, pax), and PAX records only for what its header cannot say. No names of users and groups,
no access and change times. Extended attributes are `SCHILY.xattr.` records, as Docker, umoci and podman read
and write them.

Holes are written as zeros: containers/storage and Docker take layers apart with tar-split, which cannot put a
sparse file together again, so that a layer with one could be pulled and never be pushed or saved.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from urllib.parse import quote_from_bytes

from unionfs.errors import ImageError
from unionfs.image.tar_read import BLOCK, Entry, Kind

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_TYPES: dict[Kind, bytes] = {
    "file": b"0",
    "link": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
}
_NAME, _PREFIX = 100, 155
_MOST_ID = 0o7777777
_MOST_NUMBER = 0o77777777777
"""What fits into a field of 8 bytes, and of 12."""
_MOST_RECORDS = 1 << 20
"""The longest PAX header that Go's archive/tar reads, with which Docker and podman do."""
_SECOND = 1_000_000_000
_GATHER = 256 << 10
_MOST_ZEROS = 1 << 20
_ZEROS = bytes(_MOST_ZEROS)
_PAX_NAME = b"PaxHeaders.0/"


class TarWriter:
    """Writes entries to *sink*, which is given blocks of some hundred KiB. `close` must be called."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._gathered = bytearray()
        self.entries = 0

    def add(self, entry: Entry, data: Iterable[bytes] = ()) -> int:
        """Write one entry; of a file *data*, which is cut or filled up with zeros to the entry's size.

        Returns how many bytes of data there were, at most the size. A directory's name may end in a slash
        or not. Raises ImageError for what no reader would take.
        """
        self._gathered += headers(entry)
        self.entries += 1
        if entry.kind != "file":
            return 0
        left = entry.size
        for block in data:
            if len(block) >= left:
                self._write(block[:left])
                left = 0
                break
            self._write(block)
            left -= len(block)
        found = entry.size - left
        left += -entry.size % BLOCK
        while left:
            block = _ZEROS[: min(left, _MOST_ZEROS)]
            self._write(block)
            left -= len(block)
        return found

    def close(self) -> None:
        """Write the end of the archive."""
        self._gathered += bytes(2 * BLOCK)
        self._flush()

    def _write(self, block: bytes) -> None:
        if len(block) < _GATHER:
            self._gathered += block
            if len(self._gathered) >= _GATHER:
                self._flush()
        else:
            self._flush()
            self._sink(block)

    def _flush(self) -> None:
        if self._gathered:
            self._sink(bytes(self._gathered))
            self._gathered.clear()


def headers(entry: Entry) -> bytes:
    """The header blocks of an entry, with a PAX header before them where it needs one."""
    records: list[tuple[bytes, bytes]] = []
    name = entry.name
    if entry.kind == "dir" and not name.endswith(b"/"):
        name += b"/"
    prefix = b""
    if len(name) > _NAME:
        at = _split(name)
        if at < 0:
            records.append((b"path", name))
            name = name[:_NAME]
        else:
            prefix, name = name[:at], name[at + 1 :]
    link = entry.linkname
    if len(link) > _NAME:
        records.append((b"linkpath", link))
        link = link[:_NAME]
    if not _is_utf8(records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    size = entry.size if entry.kind == "file" else 0
    seconds, rest = divmod(entry.mtime_ns, _SECOND)
    if size > _MOST_NUMBER:
        records.append((b"size", b"%d" % size))
        size = 0
    uid, gid = entry.uid, entry.gid
    if uid > _MOST_ID:
        records.append((b"uid", b"%d" % uid))
        uid = 0
    if gid > _MOST_ID:
        records.append((b"gid", b"%d" % gid))
        gid = 0
    if rest or not 0 <= seconds <= _MOST_NUMBER:
        records.append((b"mtime", _time(entry.mtime_ns)))
        seconds = max(0, min(seconds, _MOST_NUMBER))
    for key in sorted(entry.xattrs):
        records.append(_xattr(key, entry.xattrs[key]))
    header = _header(
        name,
        _TYPES[entry.kind],
        size,
        entry.mode,
        uid,
        gid,
        seconds,
        link=link,
        prefix=prefix,
        device=entry.device,
    )
    if not records:
        return header
    return _pax_header(entry.name, b"".join(_record(key, value) for key, value in records)) + header


def _pax_header(name: bytes, records: bytes) -> bytes:
    if len(records) > _MOST_RECORDS:
        raise ImageError(
            f"{name[:300]!r}: its extended attributes take {len(records)} bytes, where at most"
            f" {_MOST_RECORDS} can be in a layer"
        )
    shown = _PAX_NAME + name.rstrip(b"/").rpartition(b"/")[2]
    return _header(shown[:_NAME], b"x", len(records)) + records + bytes(-len(records) % BLOCK)


def _header(
    name: bytes,
    kind: bytes,
    size: int,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    seconds: int = 0,
    *,
    link: bytes = b"",
    prefix: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    header = _HEADER.pack(
        name,
        b"%07o" % (mode & 0o7777),
        b"%07o" % uid,
        b"%07o" % gid,
        b"%011o" % size,
        b"%011o" % seconds,
        b" " * 8,
        kind,
        link,
        b"ustar\x0000",
        b"",
        b"",
        b"%07o" % device[0],
        b"%07o" % device[1],
        prefix,
    )
    # The checksum is that of the header with blanks in its place; six digits, a zero and a blank.
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _split(name: bytes) -> int:
    """At which slash a long name is parted into prefix and name; -1 where it cannot be."""
    at = name.rfind(b"/", 0, min(len(name) - 1, _PREFIX + 1))
    return at if at > 0 and len(name) - at - 1 <= _NAME else -1


def _is_utf8(records: list[tuple[bytes, bytes]]) -> bool:
    try:
        for _, value in records:
            value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _time(nanoseconds: int) -> bytes:
    """Decimal seconds; a sign is for all of it."""
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    text = b"-%d" % seconds if nanoseconds < 0 else b"%d" % seconds
    return text + (b".%09d" % rest).rstrip(b"0") if rest else text


def _xattr(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """In star's form; a name with `=`, which ends a keyword, in libarchive's."""
    if b"=" not in key:
        return b"SCHILY.xattr." + key, value
    import base64  # seldom

    return b"LIBARCHIVE.xattr." + quote_from_bytes(key).encode(), base64.b64encode(value).rstrip(b"=")


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE` and a newline; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)
