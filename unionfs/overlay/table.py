"""The inode table: every inode that is still referenced, and the numbers by which they are known (invariant
10).

Nothing here looks a name up or changes a layer.
"""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator, KeysView

from unionfs.overlay.inode import ROOT_INO, Directory, File, Inode
from unionfs.overlay.names import Bag

_FS_SHIFT = 56
_FS_MAX = 0x7E
_ALLOCATED = 0x7F << _FS_SHIFT

_WORTH_SHRINKING = 1000
_FREEZE_STEP = 20_000


class Numbers:
    """Inode numbers that are unique in the mount: the real one, with the filesystem in the high bits.

    The first filesystem (upper's, else the top lower's) shows its own numbers; the others differ in
    bits 56 to 62, as overlayfs's xino does. A number that does not fit is given one for the mount's life:
    with *xino* off all of other filesystems than the first, and with *ino32*, where no number is longer than
    32 bits, those of 2**31 and more as well.
    """

    __slots__ = ("_allocated", "_end", "_filesystems", "_most", "_next", "limit")

    def __init__(self, *, xino: bool = True, ino32: bool = False) -> None:
        self._filesystems: dict[int, int] = {}
        self._allocated: dict[tuple[int, int], int] = {}
        # The last filesystem whose numbers are shown, and what no real number of it may reach for that.
        self._most = _FS_MAX if xino and not ino32 else 0
        self.limit = 1 << (31 if ino32 else _FS_SHIFT)
        self._next = self.limit if ino32 else _ALLOCATED
        self._end = 1 << (32 if ino32 else 63)

    def of(self, dev: int, ino: int) -> int:
        """The union's number for the object *ino* of the filesystem *dev*."""
        high = self._filesystems.get(dev)
        if high is None:
            high = self._filesystems[dev] = len(self._filesystems)
        if high <= self._most and ROOT_INO < ino < self.limit:
            return ino | high << _FS_SHIFT
        key = (dev, ino)
        number = self._allocated.get(key)
        if number is None:
            number = self._allocated[key] = self.allocate()
        return number

    def high_bits(self, dev: int) -> int | None:
        """What `of` adds to a number of this filesystem that fits; None if it adds nothing so simple."""
        high = self._filesystems.get(dev)
        if high is None:
            high = self._filesystems[dev] = len(self._filesystems)
        return high << _FS_SHIFT if high <= self._most else None

    def allocate(self) -> int:
        """A number that no other object has; EOVERFLOW when there is none left (of 32 bits)."""
        self._next += 1
        if self._next >= self._end:
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        return self._next


class InodeTable:
    """Every inode that is still in use, by number."""

    __slots__ = ("_by_ino", "_freeze_at", "_most", "numbers")

    def __init__(self, numbers: Numbers | None = None) -> None:
        self._by_ino: dict[int, Inode] = {}
        self._most = 0
        self._freeze_at = _FREEZE_STEP
        self.numbers = numbers or Numbers()

    def __len__(self) -> int:
        return len(self._by_ino)

    def in_use(self) -> KeysView[int]:
        """The numbers of all inodes; good until the next round of forgetting."""
        return self._by_ino.keys()

    def get(self, ino: int) -> Inode | None:
        return self._by_ino.get(ino)

    def add(self, inode: Inode) -> None:
        assert inode.ino not in self._by_ino
        self._by_ino[inode.ino] = inode
        if len(self._by_ino) >= self._freeze_at:
            # A full collection that looks at all inodes stops the mount for a second when there are a
            # million. Frozen ones it leaves out; they are freed by their reference counts all the same.
            gc.freeze()
            self._freeze_at += _FREEZE_STEP

    def values(self) -> Iterator[Inode]:
        return iter(self._by_ino.values())

    def shrink(self) -> bool:
        """Release memory after most inodes were forgotten; returns whether there was much of it.

        A dict never shrinks by itself. To be called after every round of forgetting.
        """
        count = len(self._by_ino)
        if count > self._most:
            self._most = count
        elif self._most > _WORTH_SHRINKING and count < self._most // 4:
            self._most = count
            self._by_ino = dict(self._by_ino)
            self._freeze_at = count + _FREEZE_STEP
            return True
        return False

    def attach(self, inode: Inode, parent: Directory, name: bytes) -> None:
        """Note that *inode* has this name."""
        parent.children[name] = inode
        if inode.parent is None:
            inode.parent = parent
            inode.name = name
        elif (inode.parent is not parent or inode.name != name) and isinstance(inode, File):
            if inode.aliases is None:
                inode.aliases = Bag()
            inode.aliases.add((parent, name))

    def detach(self, inode: Inode, parent: Directory, name: bytes) -> None:
        """Note that *inode* has lost this name. It may be left without one."""
        if isinstance(inode, File):
            inode.forget_lower_name(parent, name)
        if parent.children.get(name) is inode:
            del parent.children[name]
        if inode.parent is parent and inode.name == name:
            inode.parent = None
            inode.name = b""
            if isinstance(inode, File) and inode.aliases:
                inode.parent, inode.name = inode.aliases.pop()
        elif isinstance(inode, File) and inode.aliases:
            inode.aliases.discard((parent, name))
        self.drop_if_unused(parent)

    def move(
        self, inode: Inode, olddir: Directory, oldname: bytes, newdir: Directory, newname: bytes
    ) -> None:
        """Note that a name of *inode* has become another one; what had that one is detached already."""
        self._rename(inode, olddir, oldname, newdir, newname)
        if olddir.children.get(oldname) is inode:
            del olddir.children[oldname]
        newdir.children[newname] = inode
        self.drop_if_unused(olddir)

    def exchange(
        self, one: Inode, olddir: Directory, oldname: bytes, other: Inode, newdir: Directory, newname: bytes
    ) -> None:
        """Note that two inodes have taken each other's name."""
        self._rename(one, olddir, oldname, newdir, newname)
        self._rename(other, newdir, newname, olddir, oldname)
        olddir.children[oldname] = other
        newdir.children[newname] = one

    def _rename(
        self, inode: Inode, olddir: Directory, oldname: bytes, newdir: Directory, newname: bytes
    ) -> None:
        if inode.parent is olddir and inode.name == oldname:
            inode.parent, inode.name = newdir, newname
        elif isinstance(inode, File) and inode.aliases:
            inode.aliases.discard((olddir, oldname))
            inode.aliases.add((newdir, newname))

    def drop_if_unused(self, inode: Inode) -> None:
        """Remove an inode that is not in use any more from the table, and then its parents likewise."""
        while True:
            if inode.nlookup or inode.nopen or inode.pinned or inode.pending is not None:
                return
            if isinstance(inode, Directory) and inode.children:
                return
            if self._by_ino.get(inode.ino) is not inode:
                return
            inode.close()
            del self._by_ino[inode.ino]
            parent = inode.parent
            if isinstance(inode, File):
                for directory, name in inode.aliases or ():
                    directory.children.pop(name, None)
                    if directory is not parent:
                        self.drop_if_unused(directory)
                inode.aliases = inode.lower_names = None
            inode.parent = None
            if parent is None:
                return
            if parent.children.get(inode.name) is inode:
                del parent.children[inode.name]
            inode = parent
