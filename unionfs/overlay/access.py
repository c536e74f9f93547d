"""Reaching objects of our own whose mode keeps an ordinary user's daemon out.

A privileged daemon passes over modes (CAP_DAC_OVERRIDE), as overlayfs does with its mounter's credentials.
An ordinary user's daemon owns what is in its upper and may lend itself the owner's permissions for a moment.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager, nullcontext

from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.layer import Layer

_OWNER = stat.S_IRWXU


class OwnerAccess:
    """Within this context the owner may read, write and search the object; then its mode is as it was.

    Does nothing for a privileged daemon, for symlinks and for objects of others. *path* is not followed
    unless *follow*; a rename of the object meanwhile does no harm.
    """

    __slots__ = ("_fd", "_follow", "_fs", "_mode", "_path")

    def __init__(self, fs: OverlayFs, path: bytes, *, follow: bool = False) -> None:
        self._fs = fs
        self._path = path
        self._follow = follow
        self._fd = -1
        self._mode = 0

    def __enter__(self) -> None:
        identity = self._fs.identity
        if identity.privileged:
            return
        flags = os.O_PATH | os.O_CLOEXEC | (0 if self._follow else os.O_NOFOLLOW)
        fd = os.open(self._path, flags)
        st = os.fstat(fd)
        if st.st_uid != identity.uid or st.st_mode & _OWNER == _OWNER or stat.S_ISLNK(st.st_mode):
            os.close(fd)
            return
        self._fd = fd
        self._mode = stat.S_IMODE(st.st_mode)
        os.chmod(b"/proc/self/fd/%d" % fd, self._mode | _OWNER)

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            try:
                os.chmod(b"/proc/self/fd/%d" % self._fd, self._mode)
            finally:
                os.close(self._fd)
                self._fd = -1


def reachable(fs: OverlayFs, layer: Layer, path: bytes) -> AbstractContextManager[None]:
    """Within this context the marks of an object in *layer* can be read, where it is ours."""
    if fs.identity.privileged or not layer.is_upper:
        return nullcontext()
    return OwnerAccess(fs, path)


def set_mark(fs: OverlayFs, path: bytes, name: str, value: bytes, *, follow: bool = False) -> None:
    """Set one of the union's marks on an object of ours."""
    try:
        with OwnerAccess(fs, path, follow=follow):
            os.setxattr(path, name, value, follow_symlinks=follow)
    except OSError as error:
        # `user.` xattrs exist on regular files and directories only; overlayfs goes without, too.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP) or not name.startswith("user."):
            raise
