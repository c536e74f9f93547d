"""Layers for tests as tars, made by tarfile: nothing of unionfs is used.

What is wrong in our own reader or writer must not be wrong here in the same way.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TIME = 1_700_000_000
"""The time of all that has no other: 2023-11-14 22:13:20 UTC."""

_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry of a layer. *mode* has the type, as st_mode has it; a hard link has *hard_link* instead."""

    name: str | bytes
    mode: int
    content: bytes = b""
    link: str | bytes = ""
    hard_link: bool = False
    uid: int = 0
    gid: int = 0
    mtime: float = TIME
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def file(name: str | bytes, content: bytes = b"", mode: int = 0o644, **rest: Any) -> TarEntry:
    """A regular file; *rest*: uid, gid, mtime, xattrs."""
    return TarEntry(name, stat.S_IFREG | mode, content, **rest)


def directory(name: str | bytes, mode: int = 0o755, **rest: Any) -> TarEntry:
    """A directory."""
    return TarEntry(name, stat.S_IFDIR | mode, **rest)


def symlink(name: str | bytes, target: str | bytes, **rest: Any) -> TarEntry:
    """A symlink."""
    return TarEntry(name, stat.S_IFLNK | 0o777, link=target, **rest)


def hard_link(name: str | bytes, target: str | bytes, mode: int = 0o644, **rest: Any) -> TarEntry:
    """A further name of *target*, which is a name in the archive."""
    return TarEntry(name, stat.S_IFREG | mode, link=target, hard_link=True, **rest)


def device(name: str | bytes, major: int, minor: int, mode: int = stat.S_IFCHR | 0o600) -> TarEntry:
    """A device node."""
    return TarEntry(name, mode, device=(major, minor))


def fifo(name: str | bytes, mode: int = 0o644) -> TarEntry:
    """A named pipe."""
    return TarEntry(name, stat.S_IFIFO | mode)


def whiteout(name: str) -> TarEntry:
    """The deletion of a name of the layers below (image-spec, layer.md)."""
    parent, slash, last = name.rpartition("/")
    return file(f"{parent}{slash}.wh.{last}", mode=0)


def opaque(name: str) -> TarEntry:
    """Hides what the layers below have in a directory."""
    return file(f"{name}/.wh..wh..opq" if name else ".wh..wh..opq", mode=0)


def tar(entries: Sequence[TarEntry], *, end: bool = True) -> bytes:
    """An uncompressed layer: ustar, and PAX records where that does not do; *end*: the two zero blocks."""
    blocks = io.BytesIO()
    for entry in entries:
        info = tarfile.TarInfo(_text(entry.name))
        info.type = tarfile.LNKTYPE if entry.hard_link else _TYPES[stat.S_IFMT(entry.mode)]
        info.mode = stat.S_IMODE(entry.mode)
        info.size = len(entry.content)
        info.linkname = _text(entry.link)
        info.uid, info.gid, info.mtime = entry.uid, entry.gid, entry.mtime
        info.devmajor, info.devminor = entry.device
        info.pax_headers = {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
            for name, value in entry.xattrs.items()
        }
        blocks.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        blocks.write(entry.content + bytes(-len(entry.content) % tarfile.BLOCKSIZE))
    if end:
        blocks.write(bytes(2 * tarfile.BLOCKSIZE))
    return blocks.getvalue()


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
