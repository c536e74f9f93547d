"""Objects whose owners are shown otherwise than their layers store them (`uidmapping`, `squash_to_*`).

A union without such options has none of these classes: which inodes, directories and credentials it is made
of is settled when it opens. Everything above them (decisions, transports, the kernel) sees shown ids only;
everything below (copy-up, work, upper's filesystem) stored ones only. Nothing else may translate.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from unionfs.overlay.config import OwnersConfig
from unionfs.overlay.cred import Acting, Caller, Identity
from unionfs.overlay.ids import Ids, own_ids, show_acl, store_acl
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import Layer, RealDir

_NOT_OURS = (errno.EPERM, errno.EINVAL)
"""What an ordinary user, and a user namespace, answers to a chown to somebody else."""


class Owners:
    """How a union shows whose its objects are."""

    __slots__ = ("gids", "squash_gid", "squash_uid", "uids")

    def __init__(self, config: OwnersConfig) -> None:
        self.uids = Ids(config.uid_map, "uid")
        self.gids = Ids(config.gid_map, "gid")
        self.squash_uid = config.squash_uid
        self.squash_gid = config.squash_gid

    @property
    def squashes(self) -> bool:
        return self.squash_uid is not None or self.squash_gid is not None

    def take(self, layer: Layer) -> None:
        """Have a layer's directories show owners so."""
        layer.root = root = ShownDir(layer, None, b"", self)
        root.fd = layer.root_fd

    def new_file(self, ino: int, mode: int) -> File:
        return ShownFile(ino, mode, self)

    def new_directory(
        self, ino: int, mode: int, upper: RealDir | None, lowers: tuple[RealDir, ...]
    ) -> Directory:
        return ShownDirectory(ino, mode, upper, lowers, self)

    def shown(self, st: os.stat_result) -> os.stat_result:
        """The same with the owner that callers see."""
        uid, gid = self.squash_uid, self.squash_gid
        if uid is None:
            uid = self.uids.shown(st.st_uid)
        if gid is None:
            gid = self.gids.shown(st.st_gid)
        # All that a stat holds beside the ten fields of a tuple (nanoseconds, blocks ...) is in `more`.
        more: Any = st.__reduce__()[1][1]
        return os.stat_result((*st[:4], uid, gid, *st[6:]), more)

    def to_store(self, uid: int | None, gid: int | None) -> tuple[int, int]:
        """The owner that a chown asks for as it is stored, -1 for None; EINVAL for an id outside the map."""
        return (
            -1 if uid is None else self.uids.stored(uid),
            -1 if gid is None else self.gids.stored(gid),
        )

    def acl_shown(self, value: bytes) -> bytes:
        """An ACL as callers see it. Squashing leaves it alone: it says who has rights, not whose it is."""
        return show_acl(value, self.uids, self.gids)

    def acl_to_store(self, value: bytes) -> bytes:
        """A caller's ACL as it is stored; EINVAL for an id outside the map."""
        return store_acl(value, self.uids, self.gids)


class ShownDir(RealDir):
    """A real directory that tells of its objects what callers see."""

    __slots__ = ("_owners",)

    def __init__(self, layer: Layer, parent: RealDir | None, name: bytes, owners: Owners) -> None:
        super().__init__(layer, parent, name)
        self._owners = owners

    def child(self, name: bytes) -> RealDir:
        return ShownDir(self.layer, self, name, self._owners)

    def aside(self, fd: int) -> RealDir:
        directory = ShownDir(self.layer, None, b"", self._owners)
        directory.fd = fd
        return directory

    def lstat(self, name: bytes) -> os.stat_result | None:
        st = super().lstat(name)
        return None if st is None else self._owners.shown(st)

    def fstat(self, fd: int) -> os.stat_result:
        return self._owners.shown(os.fstat(fd))


class _Shown(Inode):
    """What files and directories whose owners are shown otherwise have in common."""

    __slots__ = ()

    _owners: Owners

    def lstat(self) -> os.stat_result:
        return self._owners.shown(super().lstat())

    def owner_to_store(self, uid: int | None, gid: int | None) -> tuple[int, int]:
        return self._owners.to_store(uid, gid)

    def set_owner(self, uid: int, gid: int) -> None:
        try:
            super().set_owner(uid, gid)
        except OSError as error:
            if error.errno not in _NOT_OURS or not self._owners.squashes:
                raise


class ShownFile(_Shown, File):
    """A file that shows its owner otherwise."""

    __slots__ = ("_owners",)

    def __init__(self, ino: int, mode: int, owners: Owners) -> None:
        super().__init__(ino, mode)
        self._owners = owners


class ShownDirectory(_Shown, Directory):
    """A directory that shows its owner otherwise."""

    __slots__ = ("_owners",)

    def __init__(
        self, ino: int, mode: int, upper: RealDir | None, lowers: tuple[RealDir, ...], owners: Owners
    ) -> None:
        Directory.__init__(self, ino, mode, upper, lowers)
        self._owners = owners


class MappedIdentity(Identity):
    """Acts as the stored ids of those who ask."""

    __slots__ = ("_gids", "_owners", "_uids")

    def __init__(self, owners: Owners, *, privileged: bool) -> None:
        super().__init__(privileged=privileged)
        self._owners = owners
        # setfsuid(2) tells of no id that our user namespace lacks: it would make objects as ourselves.
        self._uids = own_ids("uid")
        self._gids = own_ids("gid")

    def acting_as(self, caller: Caller) -> Acting:
        """As in `Identity`. Who is outside the map makes objects that are nobody's, as with fuse-overlayfs:
        a container engine makes /etc/mtab and its like in a container whose users it is none of.

        With squashing it is ourselves who make what cannot be made so; else that is an EOVERFLOW.
        """
        owners = self._owners
        uid = owners.uids.stored_by(caller.uid)
        gid = owners.gids.stored_by(caller.gid)
        if not (self.privileged and self._uids.has(uid) and self._gids.has(gid)):
            if owners.squashes:
                uid, gid = self.uid, self.gid
            elif self.privileged:
                raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        return super().acting_as(Caller(uid, gid, caller.pid, caller.umask))
