"""Whose credentials make new objects where owners are shown otherwise than they are stored."""

from __future__ import annotations

import errno
import os

from unionfs.overlay.cred import Acting, Caller, Identity
from unionfs.overlay.owners.idmap import own_ids
from unionfs.overlay.owners.inodes import Owners


def identity_for(owners: Owners | None, *, privileged: bool) -> Identity:
    """The credentials of a union, as its upper stores owners."""
    if owners is None:
        return Identity(privileged=privileged)
    if owners.store.needs_private_creation:
        return OwnIdentity(privileged=privileged)
    return MappedIdentity(owners, privileged=privileged)


class OwnIdentity(Identity):
    """Makes all objects as the daemon: owner and mode follow in an xattr (`XattrStore`)."""

    __slots__ = ()

    def acting_as(self, caller: Caller) -> Acting:
        return super().acting_as(Caller(self.uid, self.gid, caller.pid, 0))


class MappedIdentity(Identity):
    """Acts as the stored ids of the caller."""

    __slots__ = ("_gids", "_owners", "_uids")

    def __init__(self, owners: Owners, *, privileged: bool) -> None:
        super().__init__(privileged=privileged)
        self._owners = owners
        # setfsuid(2) fails silently for an id that the daemon's user namespace lacks: the daemon would own
        # the object.
        self._uids = own_ids("uid")
        self._gids = own_ids("gid")

    def acting_as(self, caller: Caller) -> Acting:
        """As in `Identity`. What a caller outside the map makes has the overflow ids, as with fuse-overlayfs:
        a container engine makes /etc/mtab and its like in a container whose users it is none of.

        With squashing the daemon's own ids make what cannot be made so; else that is an EOVERFLOW.
        """
        owners = self._owners
        uid, gid = owners.maker(caller)
        if not (self.privileged and self._uids.has(uid) and self._gids.has(gid)):
            if owners.squashes:
                uid, gid = self.uid, self.gid
            elif self.privileged:
                raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        return super().acting_as(Caller(uid, gid, caller.pid, caller.umask))
