"""What is in an archive or a layout directory, by name. Writes nothing but below one directory in ingest/.

The archive is as little trusted as the layers in it: names are keys of a table, and lead to no file outside.

- A directory: files are opened as they are asked for.
- A tar on a disk: one pass over the headers, then each member is read where it lies.
- A compressed tar, or one from a pipe: members are spooled as they come, since most programs write last what
  says how to read them; blobs that the store has are left out.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unionfs.errors import ImageError, NotFoundError
from unionfs.image import blobs
from unionfs.image.archive_outer import is_compressed, tar_of
from unionfs.image.compression import HEAD
from unionfs.image.digest import Digest, Readable
from unionfs.image.model import MOST_BYTES
from unionfs.image.store import Store, remove_tree
from unionfs.image.tar_read import Entry, entries

_MOST_ENTRIES = 200_000
"""Of an archive: images of 4,096 layers have some ten thousand."""
_MOST_LINKS = 40
"""As path_resolution(7) has it."""
_BLOCK = 1 << 20


class Members(Protocol):
    """Contents by name, as `index.json` and `blobs/sha256/…`."""

    what: str
    """The archive's name, for messages."""

    def size(self, name: str) -> int | None:
        """Bytes; None where there is no such file."""

    def open(self, name: str, offset: int = 0) -> FileSlice:
        """A member, to be read from *offset* on. Raises NotFoundError."""


class FileSlice:
    """A part of a file, to be read and closed; the offset of its descriptor is not used."""

    __slots__ = ("_at", "_end", "_fd", "_owned")

    def __init__(self, fd: int, begin: int, end: int, *, owned: bool) -> None:
        self._fd = fd
        self._at = begin
        self._end = end
        self._owned = owned

    def read(self, size: int, /) -> bytes:
        block = os.pread(self._fd, min(size, max(self._end - self._at, 0)), self._at)
        self._at += len(block)
        return block

    def __enter__(self) -> FileSlice:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._owned:
            os.close(self._fd)


def read_small(members: Members, name: str) -> bytes:
    """A document. Raises NotFoundError, and ImageError for one that is too large."""
    size = members.size(name)
    if size is None:
        raise NotFoundError(f"{members.what}: there is no {name[:300]!r} in it")
    if size > MOST_BYTES:
        raise ImageError(f"{members.what}: {name[:300]}: {size} bytes, where at most {MOST_BYTES} are read")
    with members.open(name) as source:
        return b"".join(iter(lambda: source.read(_BLOCK), b""))


@contextmanager
def opened(store: Store, fd: int, what: str, limit: int) -> Iterator[Members]:
    """What is in the archive or directory that *fd* has open; no member may be larger than *limit* bytes.

    *what* names it in messages. Raises ImageError for what is no tar, or a malformed one.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        yield _Directory(fd, what)
        return
    if stat.S_ISREG(mode) and not is_compressed(os.pread(fd, HEAD, _position(fd))):
        yield _indexed(fd, what, limit)
        return
    with store.claim(f"load-{os.getpid()}-{fd}") as place:
        try:
            yield _spooled(store, place, fd, what, limit)
        finally:
            for left in place.iterdir():
                remove_tree(left)


def _position(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_CUR)


class _Directory:
    """The files of a layout directory."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self.what = what

    def size(self, name: str) -> int | None:
        with suppress(NotFoundError):
            fd = self._open(name)
            try:
                return os.fstat(fd).st_size
            finally:
                os.close(fd)
        return None

    def open(self, name: str, offset: int = 0) -> FileSlice:
        fd = self._open(name)
        return FileSlice(fd, offset, os.fstat(fd).st_size, owned=True)

    def _open(self, name: str) -> int:
        """A regular file: what else is there, a pipe say, must not be waited for."""
        if _plain(name) == name:
            with suppress(FileNotFoundError, NotADirectoryError):
                fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    return fd
                os.close(fd)
        raise NotFoundError(f"{self.what}: there is no file {name[:300]!r} in it")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member's bytes are: in the archive, or in a file of their own."""

    begin: int
    size: int
    path: Path | None = None


class _Tar:
    """The members of a tar."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self.what = what
        self._places: dict[str, _Place] = {}
        self._links: dict[str, str] = {}

    def note(self, entry: Entry, place: _Place | None) -> None:
        """One entry; of several with a name the last counts."""
        if len(self._places) + len(self._links) >= _MOST_ENTRIES:
            raise ImageError(f"{self.what}: more than {_MOST_ENTRIES} entries: no archive of images")
        name = _plain(os.fsdecode(entry.name))
        if name is None:
            raise ImageError(f"{self.what}: the name {entry.name[:300]!r} leads outside")
        self._places.pop(name, None)
        self._links.pop(name, None)
        if place is not None:
            self._places[name] = place
        elif entry.kind in ("link", "symlink"):
            target = os.fsdecode(entry.linkname)
            # A hard link's target is a name in the archive, a symlink's one relative to its directory: old
            # versions of Docker wrote a layer that several images have as a symlink.
            above = posixpath.dirname(name) if entry.kind == "symlink" else ""
            self._links[name] = posixpath.join(above, target)

    def _place(self, name: str) -> _Place | None:
        found = _plain(name)
        for _ in range(_MOST_LINKS):
            if found is None or found not in self._links:
                break
            found = _plain(self._links[found])
        return self._places.get(found) if found is not None else None

    def size(self, name: str) -> int | None:
        place = self._place(name)
        return None if place is None else place.size

    def open(self, name: str, offset: int = 0) -> FileSlice:
        place = self._place(name)
        if place is None:
            raise NotFoundError(f"{self.what}: there is no file {name[:300]!r} in it")
        begin, end = place.begin + offset, place.begin + place.size
        if place.path is None:
            return FileSlice(self._fd, begin, end, owned=False)
        return FileSlice(os.open(place.path, os.O_RDONLY | os.O_CLOEXEC), begin, end, owned=True)


def _plain(name: str) -> str | None:
    """A name without `.` and doubled slashes; None for one that leads outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in posixpath.normpath("/".join(parts)).split("/"):
        return None
    return posixpath.normpath("/".join(parts)) if parts else "."


def _check(entry: Entry, what: str, limit: int) -> None:
    if entry.extents is not None:
        raise ImageError(f"{what}: {entry.name[:300]!r} is a sparse entry: pack the archive without --sparse")
    if entry.size > limit:
        raise ImageError(
            f"{what}: {entry.name[:300]!r} has {entry.size} bytes, where at most {limit} are read"
            " (--max-layer-size)"
        )


class _SeekableFile:
    """An archive on a disk, of which only headers are read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.position = _position(fd)
        self._end = os.fstat(fd).st_size

    def read(self, size: int, /) -> bytes:
        # A header and what belongs to it, but not much of the data that follows.
        block = os.pread(self._fd, min(size, 16 << 10), self.position)
        self.position += len(block)
        return block

    def skip(self, size: int, /) -> bool:
        self.position += size
        return self.position <= self._end


def _indexed(fd: int, what: str, limit: int) -> _Tar:
    members = _Tar(fd, what)
    source = _SeekableFile(fd)
    reader = entries(source, what)
    for entry in reader:
        _check(entry, what, limit)
        begin = source.position - reader.buffered
        members.note(entry, _Place(begin, entry.size) if entry.kind == "file" else None)
    return members


class _Descriptor:
    """An open file or pipe, from where it is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)


def _spooled(store: Store, place: Path, fd: int, what: str, limit: int) -> _Tar:
    members = _Tar(-1, what)
    total = 4 * limit
    reader = entries(tar_of(_Descriptor(fd), what, total), what)
    for number, entry in enumerate(reader):
        _check(entry, what, limit)
        if entry.kind != "file":
            members.note(entry, None)
            continue
        stored = _stored(store, os.fsdecode(entry.name), entry.size)
        if stored is None:
            stored = place / str(number)
            _write(stored, reader)
        members.note(entry, _Place(0, entry.size, stored))
    return members


def _write(path: Path, source: Readable) -> None:
    with path.open("wb") as file:
        while block := source.read(_BLOCK):
            file.write(block)


def _stored(store: Store, name: str, size: int) -> Path | None:
    """The blob of the store that a member of such a name has to be; None where there is none."""
    algorithm, _, hex_digits = name.removeprefix("./").removeprefix("blobs/").partition("/")
    with suppress(ImageError):
        path = blobs.path_of(store, Digest(f"{algorithm}:{hex_digits}"))
        with suppress(FileNotFoundError):
            return path if path.stat().st_size == size else None
    return None
