"""Requests about directories that are read: OPENDIR, READDIR, READDIRPLUS, FSYNCDIR.

Where nothing changes but through the mount, OPENDIR answers ENOSYS: the kernel then opens directories
without asking and keeps their listings (fs/fuse/readdir.c). Nobody says then when a reading begins or ends,
so there is one standing listing a directory, whose cookies stay valid.
"""

from __future__ import annotations

import errno
import os

from unionfs.overlay.readdir import DirHandle
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.files import Files
from unionfs.transport.direct.negotiate import MAX_WRITE
from unionfs.transport.direct.protocol import BODY, IN_HEADER, Opcode
from unionfs.transport.direct.replies import Replies
from unionfs.transport.direct.requests import Buffer, malformed
from unionfs.transport.direct.server import Answer, Handler, Server
from unionfs.transport.direct.standing import StandingListings

_DIRENT = p.DIRENT.size
_DIRENT_PLUS = p.ENTRY_OUT.size + _DIRENT
_UNLISTED = p.ENTRY_OUT.pack(*(0,) * 22)


class Listings:
    """The handlers of directories."""

    def __init__(
        self, server: Server, replies: Replies, files: Files, standing: StandingListings, *, stateless: bool
    ) -> None:
        self._server = server
        self._union = server.union
        self._replies = replies
        self._files = files
        self._standing = standing
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
        union = self._union
        pack = p.DIRENT.pack
        out = bytearray()
        for name, number, kind, cookie in union.read_dir_plain(self._handle(fh, ino), offset):
            length = len(name)
            padding = -length & 7
            if len(out) + _DIRENT + length + padding > size:
                if not out:
                    raise malformed("no room for one entry")
                break
            out += pack(number, cookie, length, kind)
            out += name
            out += bytes(padding)
        return out

    def readdirplus(self, buffer: Buffer, end: int, ino: int) -> Answer:
        fh, offset, size = _place(buffer)
        union, replies = self._union, self._replies
        pack = p.DIRENT.pack
        out = bytearray()
        for name, entry, cookie in union.read_dir(self._handle(fh, ino), offset):
            length = len(name)
            padding = -length & 7
            if len(out) + _DIRENT_PLUS + length + padding > size:
                if entry is not None:
                    union.drop_if_unused(entry[0])
                if not out:
                    raise malformed("no room for one entry")
                break
            if entry is None:
                # The name is there, but its lookup fails: whoever asks for it is told.
                out += _UNLISTED
                out += pack(union.unused_number(), cookie, length, 0)
            else:
                inode, st = entry
                if cookie > 2:
                    out += replies.entry(inode, st)
                    union.remember(inode)
                else:
                    out += _UNLISTED
                out += pack(inode.ino, cookie, length, st.st_mode >> 12)
            out += name
            out += bytes(padding)
        return out


def _place(buffer: Buffer) -> tuple[int, int, int]:
    """The handle, the cookie from which to go on, and the room."""
    fh, offset, size, *_ = p.READ_IN.unpack_from(buffer, BODY)
    if offset < 0:
        raise malformed("a place before the beginning")
    return fh, offset, min(size, MAX_WRITE)


__all__ = ["Listings"]
