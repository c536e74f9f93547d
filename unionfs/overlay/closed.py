"""The union of an ordinary user's daemon: reaching what lies below directories whose modes keep it out.

A process that has a file or a directory open, or works in it, goes on when a mode above is closed (POSIX
checks search permission at the lookup only), and kernel overlayfs acts with its mounter's capabilities. A
daemon without them fails with EACCES at the first system call that takes a name. The operation is then called
again, as after `Wait`, with the directories that it works in lent (`lend.py`). Where modes allow, that costs
nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from unionfs.overlay.access import PLACE, READ, OwnerAccess, containing
from unionfs.overlay.attr import Changes, StatX
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.inode import Directory, Inode
from unionfs.overlay.iterate import Entry
from unionfs.overlay.layer import RealDir
from unionfs.overlay.listing import DirHandle
from unionfs.overlay.super import Union
from unionfs.overlay.xattr import lower_attribute

P = ParamSpec("P")
T = TypeVar("T")

Names = tuple[tuple[int, bytes], ...]
"""Directories by number, each with a name in it; an empty one for none."""


def open_union(config: UnionConfig) -> Union:
    """`Union.open`, and where modes can keep the daemon out, what gets past them."""
    union = Union.open(config)
    return union if union.fs.lender is None else OwnersUnion(union.fs)


class OwnersUnion(Union):
    """A union in which no mode of what the daemon's user owns keeps the daemon out."""

    __slots__ = ()

    def _named(self, names: Names, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an operation that works on names."""
        try:
            return operation(*args, **kwargs)
        except PermissionError as error:
            if error.errno != errno.EACCES:
                raise
        places: list[RealDir] = []
        for number, name in names:
            parent = self.fs.table.get(number)
            if isinstance(parent, Directory):
                if parent.upper is not None:
                    places.append(parent.upper)
                child = parent.children.get(name)
                if child is not None:
                    places += containing(child)
        with self.fs.lend_all(places, PLACE):
            return operation(*args, **kwargs)

    def _of(self, inode: Inode | None, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an operation on an object, which reaches that by one of its names."""
        try:
            return operation(*args, **kwargs)
        except PermissionError as error:
            if error.errno != errno.EACCES or inode is None:
                raise
        with self.fs.lend_all(containing(inode), PLACE):
            return operation(*args, **kwargs)

    # --- names -----------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Entry | None:
        names = ((parent, name),)
        if name == b"..":
            directory = self.directory(parent).parent
            if directory is not None:
                return self._of(directory, super().lookup, parent, name)
        if name == b".":
            return self._of(self.directory(parent), super().lookup, parent, name)
        return self._named(names, super().lookup, parent, name)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        return self._named(((parent, name),), super().mkdir, parent, name, mode, caller)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
        return self._named(((parent, name),), super().mknod, parent, name, mode, rdev, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        return self._named(((parent, name),), super().symlink, parent, name, target, caller)

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Inode, os.stat_result, OpenFile]:
        return self._named(((parent, name),), super().create, parent, name, mode, flags, caller)

    def tmpfile(
        self, parent: int, mode: int, flags: int, caller: Caller
    ) -> tuple[Inode, os.stat_result, OpenFile]:
        return self._named(((parent, b""),), super().tmpfile, parent, mode, flags, caller)

    def link(self, ino: int, parent: int, name: bytes) -> Entry:
        inode = self.fs.table.get(ino)
        return self._of(inode, self._named, ((parent, name),), super().link, ino, parent, name)

    def unlink(self, parent: int, name: bytes) -> None:
        self._named(((parent, name),), super().unlink, parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        self._named(((parent, name),), super().rmdir, parent, name)

    def rename(self, parent: int, name: bytes, newparent: int, newname: bytes, flags: int) -> None:
        names = ((parent, name), (newparent, newname))
        self._named(names, super().rename, parent, name, newparent, newname, flags)

    # --- attributes ------------------------------------------------------------------------------

    def getattr(self, ino: int) -> Entry:
        return self._of(self.fs.table.get(ino), super().getattr, ino)

    def statx(self, ino: int) -> StatX:
        return self._of(self.fs.table.get(ino), super().statx, ino)

    def setattr(self, ino: int, changes: Changes, caller: Caller, handle: OpenFile | None) -> Entry:
        return self._of(self.fs.table.get(ino), super().setattr, ino, changes, caller, handle)

    def copy_up(self, ino: int) -> None:
        self._of(self.fs.table.get(ino), super().copy_up, ino)

    def get_flags(self, ino: int) -> int:
        return self._of(self.fs.table.get(ino), super().get_flags, ino)

    def set_flags(self, ino: int, flags: int, caller: Caller) -> None:
        self._of(self.fs.table.get(ino), super().set_flags, ino, flags, caller)

    def get_fsxattr(self, ino: int) -> bytes:
        return self._of(self.fs.table.get(ino), super().get_fsxattr, ino)

    def set_fsxattr(self, ino: int, value: bytes, caller: Caller) -> None:
        self._of(self.fs.table.get(ino), super().set_fsxattr, ino, value, caller)

    def readlink(self, ino: int) -> bytes:
        return self._of(self.fs.table.get(ino), super().readlink, ino)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        inode = self.fs.table.get(ino)
        try:
            return self._of(inode, super().getxattr, ino, name)
        except PermissionError as error:
            if error.errno != errno.EACCES or inode is None:
                raise
        # The kernel asks for nothing that the caller may not read. But pyfuse3 does, for a setxattr(2) that
        # may only create or only replace, and that takes permission to write.
        path, follow = inode.proc_path()
        if not inode.on_upper:
            return lower_attribute(self.fs, inode, name)
        with (
            self.fs.lend_all(containing(inode), PLACE),
            OwnerAccess(self.fs, path, READ, follow=follow, ino=ino),
        ):
            return super().getxattr(ino, name)

    def listxattr(self, ino: int, caller: Caller) -> list[bytes]:
        return self._of(self.fs.table.get(ino), super().listxattr, ino, caller)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        self._of(self.fs.table.get(ino), super().setxattr, ino, name, value, flags, caller)

    def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        self._of(self.fs.table.get(ino), super().removexattr, ino, name, caller)

    # --- open files ------------------------------------------------------------------------------

    def open_file(self, ino: int, flags: int, caller: Caller, kill: bool | None = None) -> OpenFile:
        return self._of(self.fs.table.get(ino), super().open_file, ino, flags, caller, kill)

    def open_granted(self, ino: int, caller: Caller, *, writes: bool) -> OpenFile:
        return self._of(self.fs.table.get(ino), super().open_granted, ino, caller, writes=writes)

    def allocate_job(
        self, handle: OpenFile, mode: int, offset: int, length: int, caller: Caller
    ) -> Callable[[], None]:
        return self._of(handle.inode, super().allocate_job, handle, mode, offset, length, caller)

    def copy_range_job(
        self,
        source: OpenFile,
        in_offset: int,
        target: OpenFile,
        out_offset: int,
        length: int,
        caller: Caller | None = None,
    ) -> Callable[[], int]:
        return self._of(
            target.inode, super().copy_range_job, source, in_offset, target, out_offset, length, caller
        )

    def list_entry(self, handle: DirHandle, name: bytes) -> Entry | None:
        return self._named(((handle.directory.ino, name),), super().list_entry, handle, name)
