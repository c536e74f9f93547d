"""Objects of a union as entries of a tar stream: what is written of each, in a layer or an archive.

An object is read when its entry is written, and may change meanwhile: one that is gone by then is left out,
and data is cut or filled up to the size that the entry says.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from unionfs.errors import ImageError
from unionfs.image.layer_form import FOREIGN_MARKS
from unionfs.image.tar_read import Entry, Kind
from unionfs.image.tar_write import TarWriter
from unionfs.offline.change import type_name
from unionfs.offline.compare import attributes, data_place, open_data
from unionfs.offline.layer_view import top
from unionfs.overlay.format import OPAQUE_FILE, WHITEOUT_PREFIX
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.iget import Found, Hit

_LEFT_OUT = (*FOREIGN_MARKS, b"security.selinux", b"security.SMACK64", b"security.evm")
"""Marks of union filesystems, and what depends on the machine: labels by its policy, signatures of inodes."""

_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)

Remark = Callable[[bytes, str], None]
"""Called with what is not as it should be: a path below the root, and what about it."""


def cannot_be_in_a_layer(path: bytes, mode: int) -> str | None:
    """Why no entry can be made of an object; None: it can."""
    if stat.S_ISSOCK(mode):
        return "a socket, which only the program that listens there can make: left out"
    if path.rpartition(b"/")[2].startswith(WHITEOUT_PREFIX):
        return "a name that means a deletion in layers: left out"
    return None


class EntryWriter:
    """Writes objects and deletions; paths have no slash before them, and the root is b"".

    *latest* is the latest mtime that is written, in nanoseconds: later ones become that. What raises OSError
    for another reason than that it is gone raises ImageError.
    """

    def __init__(self, fs: OverlayFs, writer: TarWriter, remark: Remark, latest: int | None = None) -> None:
        self._fs = fs
        self._writer = writer
        self._remark = remark
        self._latest = latest
        self._first: dict[tuple[int, int], bytes] = {}
        """Files with several names, by device and number, and the one under which it was written."""
        self.size = 0
        """Bytes in the files."""

    def add(self, path: bytes, found: Found) -> bool:
        """Write an object, or a further name of it; whether it was there."""
        self._fs.dirfds.trim()
        try:
            return self._add(path, found)
        except OSError as error:
            if error.errno in _GONE:
                self._remark(path, "gone while it was read: left out")
                return False
            raise ImageError(
                f"cannot read /{os.fsdecode(path)}: {error.strerror}: nothing was stored"
            ) from error

    def add_whiteout(self, path: bytes) -> None:
        """Write the deletion of a name of the layers below."""
        above, slash, name = path.rpartition(b"/")
        self._mark(above + slash + WHITEOUT_PREFIX + name)

    def add_opaque(self, path: bytes) -> None:
        """Write that a directory hides what the layers below have in it."""
        self._mark(path + b"/" + OPAQUE_FILE)

    def _mark(self, path: bytes) -> None:
        self._writer.add(Entry(path, "file", 0, 0, 0, 0))

    def _add(self, path: bytes, found: Found) -> bool:
        hit = top(found)
        st = hit.st
        kind = _KINDS[stat.S_IFMT(st.st_mode)]
        if kind == "file":
            return self._add_file(path, found, hit)
        entry = self._entry(path, kind, st)
        if kind != "dir" and self._is_further_name(entry, st):
            self._writer.add(entry)
            return True
        entry.xattrs = self._xattrs(hit)
        if kind == "symlink":
            entry.linkname = os.readlink(hit.name, dir_fd=hit.directory.open())
        elif kind in ("char", "block"):
            entry.device = os.major(st.st_rdev), os.minor(st.st_rdev)
        self._writer.add(entry)
        self._note(path, kind, st)
        return True

    def _add_file(self, path: bytes, found: Found, hit: Hit) -> bool:
        """Attributes are those of the file that is read: it may be another one by now."""
        fd = open_data(*data_place(self._fs, found))
        try:
            is_metacopy = found.upper_metacopy or len(found.lowers) > 1 or found.data is not None
            st = hit.st if is_metacopy else hit.directory.fstat(fd)
            if not stat.S_ISREG(st.st_mode):
                self._remark(path, f"a {type_name(st.st_mode)} since it was looked at: left out")
                return False
            entry = self._entry(path, "file", st)
            if self._is_further_name(entry, st):
                self._writer.add(entry)
                return True
            entry.size = st.st_size
            entry.xattrs = self._xattrs(hit)
            if self._writer.add(entry, _blocks(fd, st.st_size)) < st.st_size:
                self._remark(path, "cut off while it was read: filled up with zeros")
            self.size += st.st_size
            self._note(path, "file", st)
            return True
        finally:
            os.close(fd)

    def _entry(self, path: bytes, kind: Kind, st: os.stat_result) -> Entry:
        mtime = st.st_mtime_ns if self._latest is None else min(st.st_mtime_ns, self._latest)
        return Entry(path or b".", kind, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, mtime)

    def _is_further_name(self, entry: Entry, st: os.stat_result) -> bool:
        first = self._first.get((st.st_dev, st.st_ino))
        if first is None:
            return False
        entry.kind, entry.linkname = "link", first
        return True

    def _note(self, path: bytes, kind: Kind, st: os.stat_result) -> None:
        if kind != "dir" and st.st_nlink > 1:
            self._first[st.st_dev, st.st_ino] = path

    def _xattrs(self, hit: Hit) -> dict[bytes, bytes]:
        found = attributes(self._fs.format, hit)
        return {name: value for name, value in found.items() if not name.startswith(_LEFT_OUT)}


def _blocks(fd: int, size: int) -> Iterator[bytes]:
    """The data of a file, *size* bytes at most; holes are not read."""
    if os.fstat(fd).st_blocks * 512 >= size:
        left = size
        while left and (block := os.read(fd, min(left, _PIECE))):
            yield block
            left -= len(block)
        return
    at = 0
    while at < size:
        begin, end = _next_data(fd, at, size)
        while at < begin:
            piece = _ZEROS[: begin - at]
            yield piece
            at += len(piece)
        while at < end:
            block = os.pread(fd, min(end - at, _PIECE), at)
            if not block:
                return
            yield block
            at += len(block)


def _next_data(fd: int, at: int, size: int) -> tuple[int, int]:
    """Where data begins from *at* on, and where it ends."""
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
        return min(begin, size), min(os.lseek(fd, begin, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end
            return size, size
        if error.errno == errno.EINVAL:  # a filesystem that knows no holes
            return at, size
        raise
