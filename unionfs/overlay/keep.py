"""How upper keeps owner and mode: as its filesystem does, or in an attribute of each object.

Every owner and mode that is stored passes through here, but for those that the filesystem itself gives a new
object (`cred.py`). All ids are stored ones. What an ordinary user's daemon may not set raises EPERM.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import ClassVar

from unionfs.overlay import acl, override
from unionfs.overlay.override import Override, can_bear
from unionfs.overlay.priv import CAPABILITY

_NOT_OURS = (errno.EPERM, errno.EINVAL)
"""What an ordinary user, and a user namespace, is answered for a chown to somebody else."""


class Keep:
    """The filesystem keeps both. *target* is a descriptor, or a path that is not followed."""

    __slots__ = ()

    tells: ClassVar[bool] = False
    """Whether new objects are made by `adopt`, which tells of their owner and mode."""

    def copy_owner(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        """Give a private copy the owner in *st*; *made* is what it is now."""
        if made.st_uid != st.st_uid or made.st_gid != st.st_gid:
            self.chown(target, st.st_uid, st.st_gid)

    def copy_mode(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        """Give it the mode, after its attributes, and before its ACLs, which chmod(2) would change."""
        if not stat.S_ISLNK(made.st_mode):
            os.chmod(target, stat.S_IMODE(st.st_mode))

    def copied(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        """Do what is left after its ACLs."""

    def mknod(self, name: bytes, kind: int, rdev: int, at: int) -> None:
        """Make a private copy of a device, a FIFO or a socket; *kind* is its type in st_mode."""
        os.mknod(name, kind | 0o600, rdev, dir_fd=at)

    def drop_capability(self, path: bytes) -> None:
        """Remove a file's capability, where the filesystem does not at a change that removes it."""

    def chown(self, target: bytes | int, uid: int, gid: int, *, follow: bool = False) -> None:
        os.chown(target, uid, gid, follow_symlinks=follow or isinstance(target, int))


class LenientKeep(Keep):
    """The same where owners are squashed: what nobody sees need not be set."""

    __slots__ = ()

    def chown(self, target: bytes | int, uid: int, gid: int, *, follow: bool = False) -> None:
        try:
            super().chown(target, uid, gid, follow=follow)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


class OverrideKeep(LenientKeep):
    """Regular files and directories have an attribute for both, and are ours themselves.

    What cannot have the attribute (a symlink, a device) has the owner that we may give it.
    """

    __slots__ = ("name",)

    tells: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        self.name = name

    def copy_owner(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        if not can_bear(made.st_mode):
            super().copy_owner(target, made, st)

    def copy_mode(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        if not can_bear(made.st_mode):
            super().copy_mode(target, made, st)

    def copied(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        if can_bear(made.st_mode):
            self.write(target, Override.of(st, real=made.st_mode))

    def mknod(self, name: bytes, kind: int, rdev: int, at: int) -> None:
        """A regular file stands for what only root may make, as in the layer that it comes from."""
        try:
            super().mknod(name, kind, rdev, at)
        except PermissionError:
            super().mknod(name, stat.S_IFREG, 0, at)

    def write(self, target: bytes | int, override: Override, *, follow: bool = False) -> None:
        """Say so of a regular file or a directory, and have it be what its owner, us, can work with.

        An ACL that it has gets the mode's bits, too, as by chmod(2).
        """
        os.chmod(target, override.mode & 0o777 | stat.S_IRWXU)
        follow = follow or isinstance(target, int)
        os.setxattr(target, self.name, override.encode(), follow_symlinks=follow)

    def adopt(
        self,
        target: bytes | int,
        parent: bytes,
        parent_st: os.stat_result,
        owner: tuple[int, int],
        umask: int,
    ) -> None:
        """Give a new private object what the filesystem would give one that *owner* makes in *parent*.

        *parent* is a path to follow, *parent_st* what is told of it. The object has the mode that was asked
        for, umask and all else aside.
        """
        made = os.stat(target, follow_symlinks=isinstance(target, int))
        uid, gid = owner
        mode = stat.S_IMODE(made.st_mode)
        is_dir = stat.S_ISDIR(made.st_mode)
        if parent_st.st_mode & stat.S_ISGID:
            gid = parent_st.st_gid
            if is_dir:
                mode |= stat.S_ISGID
        if stat.S_ISLNK(made.st_mode):
            self.chown(target, uid, gid)
            return
        default = _default_acl(parent)
        access: bytes | None = None
        if default is None:
            mode &= ~umask
        else:
            mode, access = acl.inherited(default, mode)
        if not can_bear(made.st_mode):
            self.chown(target, uid, gid)
            os.chmod(target, mode)
            if access is not None:
                os.setxattr(target, acl.ACCESS, access, follow_symlinks=isinstance(target, int))
            return
        if default is not None and is_dir:
            os.setxattr(target, acl.DEFAULT, default, follow_symlinks=isinstance(target, int))
        if access is not None:
            os.setxattr(target, acl.ACCESS, access, follow_symlinks=isinstance(target, int))
        self.write(target, Override(uid, gid, mode))

    def drop_capability(self, path: bytes) -> None:
        """As chown(2) does, which is not called here, and O_TRUNC, which knows nothing of an isolated one."""
        name = CAPABILITY
        if self.name == override.CONTAINERS:
            name = os.fsdecode(override.isolated(os.fsencode(name)))
        try:
            os.removexattr(path, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                raise


def _default_acl(directory: bytes) -> bytes | None:
    try:
        return os.getxattr(directory, acl.DEFAULT)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
