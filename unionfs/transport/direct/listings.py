"""Requests about directories that are read: OPENDIR, READDIR, READDIRPLUS, FSYNCDIR.

Where nothing changes but through the mount, OPENDIR answers ENOSYS: the kernel then opens directories
without asking and keeps their listings (fs/fuse/readdir.c). Nobody says then when a reading begins or ends,
so there is one standing listing a directory, whose cookies stay valid.

Every listing is asked for by READDIRPLUS, and the daemon decides which entries are in full (`worth.py`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from struct import Struct

from unionfs.overlay.layer import NAME_MAX
from unionfs.overlay.listing import DirHandle
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.files import Files
from unionfs.transport.direct.negotiate import MAX_WRITE
from unionfs.transport.direct.protocol import BODY, IN_HEADER, Opcode
from unionfs.transport.direct.replies import Replies
from unionfs.transport.direct.requests import Buffer, malformed
from unionfs.transport.direct.server import Answer, Handler, Server
from unionfs.transport.direct.standing import StandingListings
from unionfs.transport.direct.worth import Worth

Pack = Callable[..., bytes]

_LENGTHS = range(NAME_MAX + 1)
_DIRENTS: list[Pack] = [Struct(f"={p.DIRENT_FIELDS}{length + 7 & -8}s").pack for length in _LENGTHS]
"""By the length of the name: number, cookie, length, type and name to an entry of READDIR."""
_BARE_ENTRIES: list[Pack] = [
    Struct(f"={p.ENTRY_OUT.size}x{p.DIRENT_FIELDS}{length + 7 & -8}s").pack for length in _LENGTHS
]
"""The same for READDIRPLUS: without a node the kernel takes no more of it than of one of READDIR."""
_BARE = p.ENTRY_OUT.size + p.DIRENT.size


class Listings:
    """The handlers of directories."""

    def __init__(
        self,
        server: Server,
        replies: Replies,
        files: Files,
        standing: StandingListings,
        worth: Worth,
        *,
        stateless: bool,
    ) -> None:
        self._server = server
        self._union = server.union
        self._replies = replies
        self._files = files
        self._standing = standing
        self._worth = worth
        self._stateless = stateless
        self._dirs: dict[int, DirHandle] = {}
        self._next = 0

    def handlers(self) -> dict[Opcode, Handler]:
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.FSYNCDIR: self.fsyncdir,
        }

    def open_handles(self) -> int:
        return len(self._dirs)

    def close(self) -> None:
        for handle in self._dirs.values():
            self._union.release_dir(handle)
        self._dirs.clear()

    def opendir(self, buffer: Buffer, end: int, ino: int) -> Answer:
        if self._stateless:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        handle = self._union.open_dir(ino)
        self._next = fh = self._next + 1
        self._dirs[fh] = handle
        return p.OPEN_OUT.pack(fh, 0, 0)

    def releasedir(self, buffer: Buffer, end: int, ino: int) -> Answer:
        handle = self._dirs.pop(p.RELEASE_IN.unpack_from(buffer, BODY)[0], None)
        if handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._union.release_dir(handle)
        return None

    def fsyncdir(self, buffer: Buffer, end: int, ino: int) -> object:
        _, flags, _ = p.FSYNC_IN.unpack_from(buffer, BODY)
        fd = self._union.sync_dir(ino)
        unique = IN_HEADER.unpack_from(buffer)[2]
        return self._files.sync(fd, bool(flags & p.FSYNC_FDATASYNC), Opcode.FSYNCDIR, unique)

    def _handle(self, fh: int, ino: int) -> DirHandle:
        if self._stateless:
            return self._standing.of(ino)
        handle = self._dirs.get(fh)
        if handle is None or handle.directory.ino != ino:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def readdir(self, buffer: Buffer, end: int, ino: int) -> Answer:
        fh, offset, size = _place(buffer)
        handle = self._handle(fh, ino)
        self._union.list_dir(handle, offset)
        return b"".join(self._plain(handle, offset, size, _DIRENTS))

    def readdirplus(self, buffer: Buffer, end: int, ino: int) -> Answer:
        fh, offset, size = _place(buffer)
        handle = self._handle(fh, ino)
        count = self._union.list_dir(handle, offset)
        reading = self._worth.reading(ino, count, offset)
        if reading is None or reading.full:
            entries = self._full(handle, offset, size)
        else:
            entries = self._plain(handle, offset, size, _BARE_ENTRIES)
            reading.shown += len(entries)
        if not entries and reading is not None and reading.shown and self._stateless:
            # The kernel would keep it, and whoever lists the directory next would not be heard of.
            self._server.forget_listing(ino)
        return b"".join(entries)

    def _plain(self, handle: DirHandle, offset: int, size: int, packers: list[Pack]) -> list[bytes]:
        """Entries with no more than number and type, as many as there is room for."""
        entries: list[bytes] = []
        room = size
        for name, number, kind, cookie in self._union.read_dir_plain(handle, offset):
            length = len(name)
            entry = packers[length](number, cookie, length, kind, name)
            room -= len(entry)
            if room < 0:
                if not entries:
                    raise malformed("no room for one entry")
                break
            entries.append(entry)
        return entries

    def _full(self, handle: DirHandle, offset: int, size: int) -> list[bytes]:
        """Entries with attributes, of the names that the kernel does not know already."""
        entries: list[bytes] = []
        union, pack = self._union, self._replies.entry
        renumbered = self._files.nodes.current
        room = size
        for name, inode, cookie in union.read_dir_new(handle, offset):
            length = len(name)
            room -= _BARE + (length + 7 & -8)
            if room < 0:
                if not entries:
                    raise malformed("no room for one entry")
                break
            if inode is None or inode.ino in renumbered:
                try:
                    entry = union.list_entry(handle, name)
                except OSError:
                    # The name is there, but its lookup fails: whoever asks for it is told.
                    entries.append(_BARE_ENTRIES[length](union.unused_number(), cookie, length, 0, name))
                    continue
                if entry is None:
                    room += _BARE + (length + 7 & -8)
                    continue
                inode = entry[0]
                entries.append(
                    pack(*entry) + _DIRENTS[length](inode.ino, cookie, length, inode.mode >> 12, name)
                )
            else:
                entries.append(_BARE_ENTRIES[length](inode.ino, cookie, length, inode.mode >> 12, name))
        return entries


def _place(buffer: Buffer) -> tuple[int, int, int]:
    """The handle, the cookie from which to go on, and the room."""
    fh, offset, size, *_ = p.READ_IN.unpack_from(buffer, BODY)
    if offset < 0:
        raise malformed("a place before the beginning")
    return fh, offset, min(size, MAX_WRITE)
