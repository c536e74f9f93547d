"""Reaching objects of our own whose mode keeps an ordinary user's daemon out.

A privileged daemon passes over modes (CAP_DAC_OVERRIDE), as overlayfs does with its mounter's credentials.
An ordinary user's daemon owns what is in its upper and may lend itself the owner's permissions for a moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from contextlib import AbstractContextManager, nullcontext

from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import File
from unionfs.overlay.layer import RealDir

_NOTHING = nullcontext()

READ = stat.S_IRUSR
WRITE = stat.S_IWUSR
LIST = stat.S_IRUSR | stat.S_IXUSR
PLACE = stat.S_IWUSR | stat.S_IXUSR


class OwnerAccess:
    """Within this context the owner has the *needed* permissions on the object; then its mode is as it was.

    Does nothing for a privileged daemon, for symlinks, for objects of others, and where the mode allows it
    anyway. *path* is not followed unless *follow*; a rename of the object meanwhile does no harm.
    """

    __slots__ = ("_fd", "_follow", "_fs", "_mode", "_needed", "_path")

    def __init__(self, fs: OverlayFs, path: bytes, needed: int, *, follow: bool = False) -> None:
        self._fs = fs
        self._path = path
        self._needed = needed
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
        allowed = st.st_mode & self._needed == self._needed
        if allowed or st.st_uid != identity.uid or stat.S_ISLNK(st.st_mode):
            os.close(fd)
            return
        self._fd = fd
        self._mode = stat.S_IMODE(st.st_mode)
        os.chmod(b"/proc/self/fd/%d" % fd, self._mode | self._needed)

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            try:
                os.chmod(b"/proc/self/fd/%d" % self._fd, self._mode)
            finally:
                os.close(self._fd)
                self._fd = -1


class Placing:
    """Place something in an upper directory that, for the caller, was there before.

    The directory's times are put back, and its mode does not keep us out.
    """

    __slots__ = ("_access", "_directory", "_st")

    def __init__(self, fs: OverlayFs, directory: RealDir) -> None:
        self._directory = directory
        self._access: OwnerAccess | None = None
        if not fs.identity.privileged:
            self._access = OwnerAccess(fs, b"/proc/self/fd/%d" % directory.open(), PLACE, follow=True)

    def __enter__(self) -> None:
        self._st = os.fstat(self._directory.open())
        if self._access is not None:
            self._access.__enter__()

    def __exit__(self, *exc: object) -> None:
        directory, times = self._directory, (self._st.st_atime_ns, self._st.st_mtime_ns)
        # Best effort, as in overlayfs: the object is in place, and the directory may be another user's.
        if self._access is not None:
            with contextlib.suppress(OSError):
                self._access.__exit__()
        with contextlib.suppress(OSError):
            if self._access is not None or directory.parent is None or directory.pinned:
                os.utime(b"/proc/self/fd/%d" % directory.open(), ns=times)
            else:
                # Cheaper; only a daemon that may search every directory reaches it so.
                os.utime(directory.name, ns=times, dir_fd=directory.parent.open(), follow_symlinks=False)


def reachable(
    fs: OverlayFs, directory: RealDir, name: bytes, *, is_dir: bool
) -> AbstractContextManager[None]:
    """Within this context the marks of an object in *directory* can be read, where it is ours."""
    if fs.identity.privileged or not directory.layer.is_upper:
        return _NOTHING
    return OwnerAccess(fs, directory.proc_path(name), LIST if is_dir else READ)


def listing_fd(fs: OverlayFs, directory: RealDir) -> int:
    """A new readable descriptor of a directory, whatever its mode where it is ours; the caller closes it."""
    try:
        return directory.listing_fd()
    except PermissionError:
        with OwnerAccess(fs, b"/proc/self/fd/%d" % directory.open(), LIST, follow=True):
            return directory.listing_fd()


def open_for_daemon(fs: OverlayFs, inode: File, flags: int) -> int:
    """Open the real file for a handle that was granted already, whatever the mode is by now."""
    try:
        return inode.open_real(flags)
    except PermissionError:
        path, follow = inode.proc_path()
        with OwnerAccess(fs, path, READ | WRITE, follow=follow):
            return inode.open_real(flags)


def set_mark(fs: OverlayFs, path: bytes | int, name: str, value: bytes, *, follow: bool = False) -> None:
    """Set one of the union's marks on an object of ours; by descriptor for one that is open for writing."""
    try:
        if isinstance(path, int) or fs.identity.privileged:
            os.setxattr(path, name, value, follow_symlinks=follow or isinstance(path, int))
        else:
            with OwnerAccess(fs, path, WRITE, follow=follow):
                os.setxattr(path, name, value, follow_symlinks=follow)
    except OSError as error:
        # `user.` xattrs exist on regular files and directories only; overlayfs goes without, too.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP) or not name.startswith("user."):
            raise
