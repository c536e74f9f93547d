"""Inodes and the inode table: what an object of the union is, where it really lies, and who still knows it.

One `Inode` stands for one object, however many names or layers it has. It lives as long as the kernel holds
lookups of it, a handle is open, or a child is known. Nothing here looks a name up or changes a layer.
"""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections.abc import Iterator, KeysView
from typing import TYPE_CHECKING, ClassVar

from unionfs.overlay.data_only import DataLayers
from unionfs.overlay.ids import Ids, show_acl
from unionfs.overlay.layer import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.listing import NameChanges
    from unionfs.overlay.readdir import DirIndex
    from unionfs.overlay.wait import Task

ROOT_INO = 1
"""The merged root's number for the kernel (FUSE_ROOT_ID)."""

_FS_SHIFT = 56
_FS_MAX = 0x7E
_ALLOCATED = 0x7F << _FS_SHIFT

_WORTH_SHRINKING = 1000
_FREEZE_STEP = 20_000

_UIDS, _GIDS = Ids((), "uid"), Ids((), "gid")

# O_NONBLOCK means nothing to a regular file, and keeps a FIFO that took its place from stopping us.
_OPEN = os.O_CLOEXEC | os.O_NONBLOCK


class Numbers:
    """Inode numbers that are unique in the mount: the real one, with the filesystem in the high bits.

    The first filesystem (upper's, else the top lower's) shows its own numbers; the others are told apart in
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


class Inode:
    """What files and directories have in common.

    `ino` is both the number that callers see and the key in the table. `parent` and `name` are one of its
    names (the root and nameless objects have none); further names of a file are in `File.aliases`.
    """

    __slots__ = ("bare", "copying", "ino", "mode", "name", "nlookup", "nopen", "parent", "pinned", "prot")

    is_dir: ClassVar[bool] = False

    def __init__(self, ino: int, mode: int) -> None:
        self.ino = ino
        self.mode = mode
        self.parent: Directory | None = None
        self.name = b""
        self.nlookup = 0
        self.nopen = 0
        self.pinned = False
        self.copying: Task | None = None
        # What `protect.py` has found; negative until it has looked.
        self.prot = -1
        # Known to have no extended attribute that a caller could see (`xattr.py`).
        self.bare = False

    @property
    def on_upper(self) -> bool:
        raise NotImplementedError

    def lstat(self) -> os.stat_result:
        """The stat of the topmost real object."""
        raise NotImplementedError

    def proc_path(self) -> tuple[bytes, bool]:
        """A path to the topmost real object, and whether its last component must be followed."""
        raise NotImplementedError

    def place(self) -> tuple[bytes, int | None, bool]:
        """The same for calls that take a directory descriptor: path, descriptor, whether to follow."""
        path, follow = self.proc_path()
        return path, None, follow

    def owner_to_store(self, uid: int | None, gid: int | None) -> tuple[int, int]:
        """The owner that a caller asks for as it is stored, for `set_owner`; -1 for None.

        EINVAL where it cannot be stored.
        """
        return -1 if uid is None else uid, -1 if gid is None else gid

    def stored(self, st: os.stat_result) -> os.stat_result:
        """What is stored of owner and mode of the topmost real object, whose own stat this is."""
        return st

    def show_acl(self, name: bytes, value: bytes) -> bytes:
        """One of the real object's ACLs as callers see it."""
        return show_acl(value, _UIDS, _GIDS)

    def acl_to_store(self, value: bytes) -> bytes:
        """A caller's ACL as it is stored; EINVAL where it cannot be."""
        return value

    def take_acl(self, value: bytes) -> None:
        """The real object has got this access ACL: have its mode follow, unless the filesystem has."""

    def set_owner(self, uid: int, gid: int) -> None:
        """chown(2) the real object, which must lie in upper."""
        path, at, follow = self.place()
        os.chown(path, uid, gid, dir_fd=at, follow_symlinks=follow)

    def set_mode(self, mode: int) -> None:
        """chmod(2) the real object, which must lie in upper and be no symlink."""
        path, at, _ = self.place()
        os.chmod(path, stat.S_IMODE(mode), dir_fd=at)

    def close(self) -> None:
        """Close what it holds open; what can be opened again by name will be."""
        raise NotImplementedError


class Directory(Inode):
    """A directory of the union: at most one in upper, and those of the lowers that it merges, top first."""

    __slots__ = ("children", "impure", "index", "listed", "lowers", "opaque", "redirect", "upper")

    is_dir = True

    def __init__(self, ino: int, mode: int, upper: RealDir | None, lowers: tuple[RealDir, ...]) -> None:
        super().__init__(ino, mode)
        self.upper = upper
        self.lowers = lowers
        self.children: dict[bytes, Inode] = {}
        self.index: DirIndex | None = None
        self.redirect: bytes | None = None
        self.opaque = False
        self.impure = False
        # Where changes of names are noted, by those who have listed it.
        self.listed: tuple[NameChanges, ...] = ()

    @property
    def on_upper(self) -> bool:
        return self.upper is not None

    @property
    def merged(self) -> bool:
        """Whether it exists in more than one layer."""
        return len(self.lowers) + (self.upper is not None) > 1

    @property
    def top(self) -> RealDir:
        return self.upper if self.upper is not None else self.lowers[0]

    def real_dirs(self) -> Iterator[RealDir]:
        if self.upper is not None:
            yield self.upper
        yield from self.lowers

    def lstat(self) -> os.stat_result:
        return os.fstat(self.top.open())

    def proc_path(self) -> tuple[bytes, bool]:
        return b"/proc/self/fd/%d" % self.top.open(), True

    def close(self) -> None:
        for real in self.real_dirs():
            real.unpin()
            real.layer.dirfds.close(real)


class File(Inode):
    """Anything but a directory.

    `updir`/`upname` is where it lies in upper, `lowdir`/`lowname` the lower object it is or came from, and
    `datadir`/`dataname` the lower file that holds the data of a metacopy; where that is to be looked for in
    data-only layers, these and the path, until the data is wanted. `fd` (O_PATH) serves it
    once it has lost its last name in upper. `nlink`, when not None, is the link count that callers see; else
    the real one is.
    """

    __slots__ = (
        "aliases",
        "datadir",
        "dataname",
        "fd",
        "has_origin",
        "indexed",
        "lowdir",
        "lower_names",
        "lowname",
        "metacopy",
        "nlink",
        "no_capability",
        "real_ino",
        "redirect",
        "updir",
        "upname",
    )

    def __init__(self, ino: int, mode: int) -> None:
        super().__init__(ino, mode)
        self.updir: RealDir | None = None
        self.upname = b""
        self.real_ino = 0
        self.lowdir: RealDir | None = None
        self.lowname = b""
        self.datadir: RealDir | DataLayers | None = None
        self.dataname = b""
        self.metacopy = False
        self.redirect: bytes | None = None
        self.indexed = False
        self.has_origin = False
        self.aliases: set[tuple[Directory, bytes]] | None = None
        # Of its names those that upper has no entry for: only kept for lower files with several links.
        self.lower_names: set[tuple[Directory, bytes]] | None = None
        self.nlink: int | None = None
        self.no_capability = False
        self.fd = -1

    @property
    def on_upper(self) -> bool:
        return self.updir is not None or self.fd >= 0

    @property
    def from_lower(self) -> bool:
        """Whether it is, or was copied up from, an object of a lower."""
        return self.lowdir is not None or self.has_origin

    def names(self) -> Iterator[tuple[Directory, bytes]]:
        """Every name of it that is known."""
        if self.parent is not None:
            yield self.parent, self.name
        if self.aliases:
            yield from self.aliases

    def real(self) -> tuple[RealDir, bytes]:
        """Where the topmost real object lies (not for one served by descriptor)."""
        if self.updir is not None:
            return self.updir, self.upname
        assert self.lowdir is not None
        return self.lowdir, self.lowname

    def lstat(self) -> os.stat_result:
        if self.fd >= 0:
            return os.fstat(self.fd)
        directory = self.updir
        if directory is None:
            directory, name = self.real()
        else:
            name = self.upname
        fd = directory.fd
        return os.stat(name, dir_fd=fd if fd >= 0 else directory.open(), follow_symlinks=False)

    def proc_path(self) -> tuple[bytes, bool]:
        if self.fd >= 0:
            return b"/proc/self/fd/%d" % self.fd, True
        directory, name = self.real()
        return directory.proc_path(name), False

    def place(self) -> tuple[bytes, int | None, bool]:
        if self.fd >= 0:
            return b"/proc/self/fd/%d" % self.fd, None, True
        directory, name = self.real()
        return name, directory.open(), False

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def relocate(self, directory: RealDir, name: bytes) -> None:
        """Reach the upper object by this name from now on."""
        self.updir, self.upname = directory, name
        self.close()

    def forget_lower_name(self, parent: Directory, name: bytes) -> None:
        """Note that upper has an entry for this name, or nobody has the name any more."""
        if self.lower_names:
            self.lower_names.discard((parent, name))

    def open_real(self, flags: int) -> int:
        """Open the topmost real object; an O_PATH descriptor is opened again by way of /proc."""
        if self.fd >= 0:
            return os.open(b"/proc/self/fd/%d" % self.fd, flags | _OPEN)
        directory, name = self.real()
        return os.open(name, flags | os.O_NOFOLLOW | _OPEN, dir_fd=directory.open())

    def open_data(self, flags: int) -> int:
        """Open the object that holds the data: the lower file of a metacopy, else the topmost."""
        if self.metacopy:
            directory, name = self.data_place()
            return os.open(name, flags | os.O_NOFOLLOW | _OPEN, dir_fd=directory.open())
        return self.open_real(flags)

    def data_place(self) -> tuple[RealDir, bytes]:
        """Where the lower file lies that holds the data; what `DataLayers.find` raises if it is not there."""
        directory = self.datadir
        assert directory is not None
        if isinstance(directory, DataLayers):
            directory, self.dataname = directory.find(self.dataname)
            self.datadir = directory
        return directory, self.dataname

    def open_lower(self, flags: int) -> int:
        """Open the lower file that it came from, or whose data it shows; ESTALE where none is known."""
        if self.datadir is not None:
            directory, name = self.data_place()
        elif self.lowdir is not None:
            directory, name = self.lowdir, self.lowname
        else:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return os.open(name, flags | os.O_NOFOLLOW | _OPEN, dir_fd=directory.open())

    def data_stat(self) -> os.stat_result | None:
        """The stat of the lower file that holds the data; None while nobody has looked for it."""
        directory = self.datadir
        if isinstance(directory, DataLayers):
            return None
        assert directory is not None
        return os.stat(self.dataname, dir_fd=directory.open(), follow_symlinks=False)


class InodeTable:
    """Every inode that somebody still knows, by number."""

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
        """Give memory back after most inodes were forgotten; returns whether there was much of it.

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
                inode.aliases = set()
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
        """Take an inode that nobody knows any more out of the table, and then its parents likewise."""
        while True:
            if inode.nlookup or inode.nopen or inode.pinned or inode.copying is not None:
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
