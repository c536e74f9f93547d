"""What was copied up for one rename of a directory, and undoing it when the rename does not come about.

A copy-up shows the same tree as before, so undoing one is right as long as it is still nothing but a copy:
no request has changed, renamed or replaced the object since, and none has it open. Where that is not sure, it
stays in upper, as after any copy-up. Must never remove an object of upper that is more than its lower.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from unionfs.overlay.access import PreserveParentTimes
from unionfs.overlay.dir_cache import NameChanges
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.listing import unwatch
from unionfs.overlay.readdir import note_upper

_Name = tuple[Directory, bytes]


@dataclass(frozen=True, slots=True)
class _Copy:
    """One object that was copied up at a name; of a file `inode` only where it was in the table."""

    inode: Inode | None
    real_ino: int = 0
    metacopy: bool = False


class _Watch(NameChanges):
    """Notes each name of a directory that comes, goes or becomes another object: it is no copy any more."""

    __slots__ = ("_copies", "_directory")

    def __init__(self, directory: Directory, copies: dict[_Name, _Copy]) -> None:
        super().__init__()
        self._directory = directory
        self._copies = copies

    def add(self, name: bytes) -> None:
        self._copies.pop((self._directory, name), None)


class Journal:
    """The copies of one rename, in their order. The directories of them are held until `close`."""

    __slots__ = ("_changed", "_copies", "_fs", "_held")

    def __init__(self, fs: OverlayFs) -> None:
        self._fs = fs
        self._copies: dict[_Name, _Copy] = {}
        self._changed: set[_Name] = set()
        self._held: dict[Directory, _Watch] = {}

    def hold(self, directory: Directory) -> None:
        """Keep a directory, for what is copied up in it."""
        if directory not in self._held:
            directory.nopen += 1
            watch = self._held[directory] = _Watch(directory, self._copies)
            directory.listed = (*directory.listed, watch)

    def note_change(self, inode: Inode) -> None:
        """Some request is about to change an object: what is in upper may soon be more than a copy."""
        for name in inode.names():
            self._changed.add(name)
            self._copies.pop(name, None)

    def add_directory(self, directory: Directory) -> None:
        """This directory was not in upper and has been copied up."""
        name = (directory.parent, directory.name)
        if name[0] is not None and name not in self._changed:
            self.hold(name[0])
            self.hold(directory)
            self._copies[name[0], name[1]] = _Copy(directory)

    def add_file(self, inode: File, directory: Directory, name: bytes, *, metacopy: bool) -> None:
        """This file was not in upper and has been copied up; *metacopy*: it was one in its lower.

        One with several names is not undone: which of them it had in upper before is not known any more.
        """
        if inode.updir is None or inode.updir is not directory.upper or inode.upname != name:
            return
        if inode.nlink is not None or inode.indexed or inode.aliases or inode.lowdir is None:
            return
        if (directory, name) in self._changed:
            return
        self.hold(directory)
        known = inode if inode.nlookup else None
        self._copies[directory, name] = _Copy(known, inode.real_ino, metacopy)

    def undo(self) -> Iterator[None]:
        """Remove what is still nothing but a copy, the last one first."""
        while self._copies:
            (directory, name), copy = self._copies.popitem()
            # Best effort: what stays is a copy-up as any other.
            with contextlib.suppress(OSError):
                if isinstance(copy.inode, Directory):
                    self._undo_directory(copy.inode, directory, name)
                else:
                    self._undo_file(copy, directory, name)
            yield

    def _undo_file(self, copy: _Copy, directory: Directory, name: bytes) -> None:
        fs, place = self._fs, directory.upper
        # Without lower parts it is opaque by now, and nothing below would show again.
        if place is None or directory.parent is None or not directory.lowers:
            return
        known = directory.children.get(name)
        if known is not None:
            if known is not copy.inode or not isinstance(known, File) or known.nopen or known.pending:
                return
            if known.updir is not place or known.upname != name or known.aliases or known.nlink is not None:
                return
        st = place.lstat(name)
        if st is None or st.st_ino != copy.real_ino or st.st_nlink != 1:
            return
        with PreserveParentTimes(fs, place):
            os.unlink(name, dir_fd=place.open())
        note_upper(directory, name, None)
        if isinstance(known, File):
            known.updir, known.upname, known.real_ino = None, b"", 0
            known.metacopy = copy.metacopy
            known.no_capability = False
            fs.attrs_to_invalidate.append(known.ino)

    def _undo_directory(self, directory: Directory, parent: Directory, name: bytes) -> None:
        fs, place, upper = self._fs, parent.upper, directory.upper
        if place is None or upper is None or directory.parent is not parent or directory.name != name:
            return
        if directory.opaque or not directory.lowers or directory.nopen > 1 or directory.pending:
            return
        # Whatever came and went in it meanwhile has left its time.
        if os.fstat(upper.open()).st_mtime_ns != os.fstat(directory.lowers[0].open()).st_mtime_ns:
            return
        with PreserveParentTimes(fs, place):
            os.rmdir(name, dir_fd=place.open())
        upper.unpin()
        upper.layer.dirfds.close(upper)
        directory.upper = None
        directory.impure = False
        directory.cache = None
        note_upper(parent, name, None)
        fs.attrs_to_invalidate.append(directory.ino)

    def close(self) -> None:
        """Let go of everything; what was not undone stays."""
        self._copies.clear()
        for directory, watch in self._held.items():
            unwatch(directory, watch)
            directory.nopen -= 1
        for directory in reversed(self._held):
            self._fs.table.drop_if_unused(directory)
        self._held.clear()
