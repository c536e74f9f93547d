"""How upper stores owner and mode: as its filesystem does, or in an xattr of each object.

Every owner and mode that is stored passes through here, but for those that the filesystem itself gives a new
object (`cred.py`). All ids are stored ones. What an ordinary user's daemon may not set raises EPERM.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import ClassVar, Protocol

from unionfs.linux import syscalls
from unionfs.overlay.owners import acl, override_stat
from unionfs.overlay.owners.override_stat import Override, can_bear
from unionfs.overlay.priv import CAPABILITY

_NOT_OURS = (errno.EPERM, errno.EINVAL)
"""What an ordinary user, and a user namespace, is answered for a chown to another id."""


class UpperObject(Protocol):
    """An object in upper that has an inode, as a store needs it."""

    def proc_path(self) -> tuple[bytes, bool]:
        """A path to the real object, and whether its last component must be followed."""

    def lstat(self) -> os.stat_result:
        """Its stat as callers see it."""

    def override_of(self, st: os.stat_result) -> Override | None:
        """What its xattr says; *st* is its own stat."""

    def remember(self, override: Override) -> None:
        """Its xattr says this from now on."""


class OwnerStore:
    """The filesystem stores both. *target* is a descriptor, or a path that is not followed."""

    __slots__ = ()

    needs_private_creation: ClassVar[bool] = False
    """Whether a new object must be completed (`complete_new`) before it gets its name."""

    # --- private copies --------------------------------------------------------------------------

    def copy_owner(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        """Give a private copy the owner in *st*; *made* is what it is now."""
        if made.st_uid != st.st_uid or made.st_gid != st.st_gid:
            self.chown(target, st.st_uid, st.st_gid)

    def copy_mode(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        """Give it the mode, after its attributes, and before its ACLs, which chmod(2) would change."""
        if not stat.S_ISLNK(made.st_mode):
            _chmod(target, stat.S_IMODE(st.st_mode))

    def finish_copy(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        """Do what is left after its ACLs."""

    def copied_mode(self, name: bytes, at: int, st: os.stat_result) -> int:
        """The mode that a private copy of an object with this stat has been given."""
        if st.st_mode & stat.S_ISGID:  # which the filesystem may not have allowed
            return os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
        return st.st_mode

    def mknod(self, name: bytes, kind: int, rdev: int, at: int) -> None:
        """Make a private copy of a device, a FIFO or a socket; *kind* is its type in st_mode."""
        os.mknod(name, kind | 0o600, rdev, dir_fd=at)

    def chown(self, target: bytes | int, uid: int, gid: int, *, follow: bool = False) -> None:
        """chown(2) by the filesystem alone."""
        os.chown(target, uid, gid, follow_symlinks=follow or isinstance(target, int))

    # --- new objects -----------------------------------------------------------------------------

    def complete_new(
        self,
        target: bytes | int,
        parent: bytes,
        parent_st: os.stat_result,
        owner: tuple[int, int],
        umask: int,
    ) -> None:
        """Give a new private object what the filesystem would give one that *owner* makes in *parent*.

        *parent* is a path to follow, *parent_st* what is stored of it. The object has the mode that was asked
        for, umask and all else aside. Called only where a store `needs_private_creation`.
        """

    # --- objects with an inode -------------------------------------------------------------------

    def set_owner(self, inode: UpperObject, uid: int, gid: int) -> None:
        """chown(2); -1 leaves as it is."""
        path, follow = inode.proc_path()
        self.chown(path, uid, gid, follow=follow)

    def set_mode(self, inode: UpperObject, mode: int) -> None:
        """chmod(2) of what is no symlink."""
        path, follow = inode.proc_path()
        _chmod(path, stat.S_IMODE(mode), follow=follow)

    def access_acl(self, inode: UpperObject, value: bytes) -> bytes:
        """The access ACL with the permission bits of the mode, of which *value* is what upper has."""
        return value

    def access_acl_was_set(self, inode: UpperObject, value: bytes) -> None:
        """Have the mode follow an access ACL, where the filesystem has not."""

    def drop_capability(self, path: bytes, *, follow: bool) -> None:
        """Remove a file's capability, where the filesystem does not at a change that removes it."""


class SquashStore(OwnerStore):
    """The same where owners are squashed: an owner that no caller sees need not be set."""

    __slots__ = ()

    def chown(self, target: bytes | int, uid: int, gid: int, *, follow: bool = False) -> None:
        try:
            super().chown(target, uid, gid, follow=follow)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


class XattrStore(SquashStore):
    """Regular files and directories have an xattr for both, and are the daemon's own.

    What cannot have the xattr (a symlink, a device) has the owner that the daemon may give it.
    """

    __slots__ = ("name",)

    needs_private_creation: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        self.name = name

    def copy_owner(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        if not can_bear(made.st_mode):
            super().copy_owner(target, made, st)

    def copy_mode(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        if not can_bear(made.st_mode):
            super().copy_mode(target, made, st)

    def finish_copy(self, target: bytes | int, made: os.stat_result, st: os.stat_result) -> None:
        if can_bear(made.st_mode):
            self._write(target, Override.of(st, real=made.st_mode))

    def copied_mode(self, name: bytes, at: int, st: os.stat_result) -> int:
        return st.st_mode

    def mknod(self, name: bytes, kind: int, rdev: int, at: int) -> None:
        """A regular file stands for what only root may make, as in the layer that it comes from."""
        try:
            super().mknod(name, kind, rdev, at)
        except PermissionError:
            super().mknod(name, stat.S_IFREG, 0, at)

    def complete_new(
        self,
        target: bytes | int,
        parent: bytes,
        parent_st: os.stat_result,
        owner: tuple[int, int],
        umask: int,
    ) -> None:
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
            _chmod(target, mode)
            if access is not None:
                os.setxattr(target, acl.ACCESS, access, follow_symlinks=isinstance(target, int))
            return
        if default is not None and is_dir:
            os.setxattr(target, acl.DEFAULT, default, follow_symlinks=isinstance(target, int))
        if access is not None:
            os.setxattr(target, acl.ACCESS, access, follow_symlinks=isinstance(target, int))
        self._write(target, Override(uid, gid, mode))

    def set_owner(self, inode: UpperObject, uid: int, gid: int) -> None:
        path, follow = inode.proc_path()
        st = os.stat(path, follow_symlinks=follow)
        if not can_bear(st.st_mode):
            self.chown(path, uid, gid, follow=follow)
            return
        now = inode.override_of(st) or Override.of(st, real=st.st_mode)
        changed = now.chowned(uid, gid, is_dir=stat.S_ISDIR(st.st_mode))
        self._write(path, changed, follow=follow)
        self.drop_capability(path, follow=follow)
        inode.remember(changed)

    def set_mode(self, inode: UpperObject, mode: int) -> None:
        path, follow = inode.proc_path()
        st = os.stat(path, follow_symlinks=follow)
        if not can_bear(st.st_mode):
            _chmod(path, stat.S_IMODE(mode), follow=follow)
            return
        changed = (inode.override_of(st) or Override.of(st, real=st.st_mode)).changed(mode=mode)
        self._write(path, changed, follow=follow)
        inode.remember(changed)

    def access_acl(self, inode: UpperObject, value: bytes) -> bytes:
        return acl.with_mode(value, inode.lstat().st_mode)

    def access_acl_was_set(self, inode: UpperObject, value: bytes) -> None:
        self.set_mode(inode, inode.lstat().st_mode & ~0o777 | acl.mode_of(value))

    def drop_capability(self, path: bytes, *, follow: bool) -> None:
        """As chown(2) does, which is not called here, and O_TRUNC, which knows nothing of an isolated one."""
        name = CAPABILITY
        if self.name == override_stat.CONTAINERS:
            name = os.fsdecode(override_stat.isolated(os.fsencode(name)))
        try:
            os.removexattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                raise

    def _write(self, target: bytes | int, override: Override, *, follow: bool = False) -> None:
        """Write the xattr of a regular file or a directory, and give it a mode that its owner, the daemon,
        can work with.

        An ACL that it has gets the mode's bits, too, as by chmod(2).
        """
        _chmod(target, override.mode & 0o777 | stat.S_IRWXU, follow=follow)
        follow = follow or isinstance(target, int)
        os.setxattr(target, self.name, override.encode(), follow_symlinks=follow)


def _chmod(target: bytes | int, mode: int, *, follow: bool = False) -> None:
    """chmod(2) of a descriptor, or of a path that is not followed unless it is one of /proc."""
    if isinstance(target, int) or follow:
        os.chmod(target, mode)
    else:
        syscalls.chmod_no_symlink(target, mode)


def _default_acl(directory: bytes) -> bytes | None:
    try:
        return os.getxattr(directory, acl.DEFAULT)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
