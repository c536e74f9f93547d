"""Inodes: what an object of the union is, where it really lies, and whether it is in use.

One `Inode` stands for one object, however many names or layers it has. It lives as long as the kernel holds
lookups of it, a handle is open, or a child is known. Nothing here looks a name up or changes a layer.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import ClassVar

from unionfs.linux import syscalls
from unionfs.overlay.cred import Caller
from unionfs.overlay.data_only import DataLayers
from unionfs.overlay.dir_cache import DirCache, NameChanges
from unionfs.overlay.layer import RealDir
from unionfs.overlay.names import Bag
from unionfs.overlay.owners.idmap import Ids, show_acl
from unionfs.overlay.wait import Task

ROOT_INO = 1
"""The merged root's number for the kernel (FUSE_ROOT_ID)."""

_UIDS, _GIDS = Ids((), "uid"), Ids((), "gid")

# O_NONBLOCK means nothing to a regular file, and keeps a FIFO that took its place from stopping us.
_OPEN = os.O_CLOEXEC | os.O_NONBLOCK


class Inode:
    """What files and directories have in common.

    `ino` is both the number that callers see and the key in the table. `parent` and `name` are one of its
    names (the root and nameless objects have none); further names of a file are in `File.aliases`.
    """

    __slots__ = (
        "ino",
        "mode",
        "name",
        "nlookup",
        "no_xattrs",
        "nopen",
        "parent",
        "pending",
        "pinned",
        "prot",
    )

    is_dir: ClassVar[bool] = False

    def __init__(self, ino: int, mode: int) -> None:
        self.ino = ino
        self.mode = mode
        self.parent: Directory | None = None
        self.name = b""
        self.nlookup = 0
        self.nopen = 0
        self.pinned = False
        self.pending: Task | None = None
        # What `protect.py` has found; negative until it has looked.
        self.prot = -1
        # Known to have no extended attribute that a caller could see (`xattr.py`).
        self.no_xattrs = False

    @property
    def on_upper(self) -> bool:
        raise NotImplementedError

    def names(self) -> Iterator[tuple[Directory, bytes]]:
        """Every name of it that is known."""
        if self.parent is not None:
            yield self.parent, self.name

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

    def access_acl_was_set(self, value: bytes) -> None:
        """The real object has got this access ACL: have its mode follow, unless the filesystem has."""

    def set_owner(self, uid: int, gid: int) -> None:
        """chown(2) the real object, which must lie in upper."""
        path, at, follow = self.place()
        os.chown(path, uid, gid, dir_fd=at, follow_symlinks=follow)

    def set_mode(self, mode: int) -> None:
        """chmod(2) the real object, which must lie in upper and be no symlink."""
        path, at, follow = self.place()
        if follow:
            os.chmod(path, stat.S_IMODE(mode))
        else:
            syscalls.chmod_no_symlink(path, stat.S_IMODE(mode), syscalls.AT_FDCWD if at is None else at)

    def close(self) -> None:
        """Close what it holds open; what can be opened again by name will be."""
        raise NotImplementedError


class Directory(Inode):
    """A directory of the union: at most one in upper, and those of the lowers that it merges, top first."""

    __slots__ = ("cache", "children", "impure", "listed", "lowers", "opaque", "redirect", "upper")

    is_dir = True

    def __init__(self, ino: int, mode: int, upper: RealDir | None, lowers: tuple[RealDir, ...]) -> None:
        super().__init__(ino, mode)
        self.upper = upper
        self.lowers = lowers
        self.children: dict[bytes, Inode] = {}
        self.cache: DirCache | None = None
        self.redirect: bytes | None = None
        self.opaque = False
        self.impure = False
        # Where changes of names are noted, for the handles that have listed it.
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

    def complete_new(self, target: bytes | int, fd: int, caller: Caller) -> None:
        """Give a new private object that *caller* makes in here what upper's filesystem does not.

        *target* is a descriptor, or a path that is not followed; *fd* is open on the directory in upper.
        """

    def close(self) -> None:
        for real in self.real_dirs():
            real.unpin()
            real.layer.dirfds.close(real)


class File(Inode):
    """Anything but a directory.

    `updir`/`upname` is where it lies in upper, `lowdir`/`lowname` the lower object it is or came from, and
    `datadir`/`dataname` the lower file that holds the data of a metacopy; where that is to be looked for in
    data-only layers, these and the path, until the data is wanted. `fd` serves it once it has
    lost its last name in upper: an O_PATH one, or with `lent` that of an open handle, which is left to the
    inode when the handle is closed. `open_fd` is a handle's that could be lent, or negative. `nlink`, when
    not None, is the link count that callers see; else the real one is.
    """

    __slots__ = (
        "aliases",
        "datadir",
        "dataname",
        "fd",
        "has_origin",
        "indexed",
        "lent",
        "lowdir",
        "lower_names",
        "lowname",
        "metacopy",
        "nlink",
        "no_capability",
        "open_fd",
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
        self.aliases: Bag[tuple[Directory, bytes]] | None = None
        # Of its names those that upper has no entry for: only kept for lower files with several links.
        self.lower_names: set[tuple[Directory, bytes]] | None = None
        self.nlink: int | None = None
        self.no_capability = False
        self.fd = -1
        self.lent = False
        self.open_fd = -1

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

    def other_names(self, parent: Directory, name: bytes) -> Iterator[tuple[Directory, bytes]]:
        """Its names besides this one by which upper may have it: none of `lower_names`."""
        only_lower = self.lower_names or ()
        if self.aliases and len(self.aliases) > len(only_lower):
            for other in self.names():
                if other not in only_lower and other != (parent, name):
                    yield other

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
            if not self.lent:
                os.close(self.fd)
            self.fd = -1
            self.lent = False

    def hold(self) -> None:
        """Serve it by descriptor from now on: it is about to lose its last name in upper."""
        if self.open_fd >= 0:
            self.fd = self.open_fd
            self.lent = True
        else:
            self.fd = self.open_real(os.O_PATH)
        self.updir = None

    def opened(self, fd: int) -> None:
        """A handle of the upper file has this descriptor, and may lend it."""
        self.open_fd = fd
        if self.fd >= 0 and not self.lent:
            os.close(self.fd)
            self.fd = fd
            self.lent = True

    def end_of_handle(self, fd: int) -> None:
        """A handle is over whose descriptor this was: close it, unless the inode is served by it."""
        if self.open_fd == fd:
            self.open_fd = -1
        if self.lent and self.fd == fd:
            self.lent = False
        else:
            os.close(fd)

    def relocate(self, directory: RealDir, name: bytes) -> None:
        """Reach the upper object by this name from now on."""
        self.updir, self.upname = directory, name
        self.close()

    def forget_lower_name(self, parent: Directory, name: bytes) -> None:
        """Note that upper has an entry for this name, or no open file has the name any more."""
        if self.lower_names:
            self.lower_names.discard((parent, name))

    def open_real(self, flags: int) -> int:
        """Open the topmost real object; an O_PATH descriptor is opened again by way of /proc."""
        if self.fd >= 0:
            return os.open(b"/proc/self/fd/%d" % self.fd, flags | _OPEN)
        directory, name = self.real()
        if not directory.layer.is_upper:
            return _open_below(directory, name, flags)
        return os.open(name, flags | os.O_NOFOLLOW | _OPEN, dir_fd=directory.open())

    def open_data(self, flags: int) -> int:
        """Open the object that holds the data: the lower file of a metacopy, else the topmost."""
        if self.metacopy:
            return _open_below(*self.data_place(), flags)
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
        return _open_below(directory, name, flags)

    def data_stat(self) -> os.stat_result | None:
        """The stat of the lower file that holds the data; None before the first use."""
        directory = self.datadir
        if isinstance(directory, DataLayers):
            return None
        assert directory is not None
        return os.stat(self.dataname, dir_fd=directory.open(), follow_symlinks=False)


def _open_below(directory: RealDir, name: bytes, flags: int) -> int:
    """Open a lower file as overlayfs does (OVL_OPEN_FLAGS): reading it leaves its access time alone.

    An ordinary user's daemon may not ask for that of what belongs to others.
    """
    flags |= os.O_NOFOLLOW | _OPEN
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory.open())
    except PermissionError:
        return os.open(name, flags, dir_fd=directory.open())
