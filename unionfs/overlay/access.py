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

from unionfs.linux.as_owner import open_as_owner
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import File, Inode
from unionfs.overlay.layer import RealDir

_NOTHING = nullcontext(False)
_NONE = nullcontext()

READ = stat.S_IRUSR
WRITE = stat.S_IWUSR
LIST = stat.S_IRUSR | stat.S_IXUSR
PLACE = stat.S_IWUSR | stat.S_IXUSR


class OwnerAccess:
    """Within this context the owner has the *needed* permissions on an object of upper or work.

    Does nothing for a privileged daemon, and where `Lender.lent` does not. *path* is not followed unless
    *follow*. An object that is renamed meanwhile goes to *lands* (directory, name). *ino* is its inode, if
    the kernel may know one: its change time is another afterwards. Yields whether it is.
    """

    __slots__ = ("_fd", "_follow", "_fs", "_ino", "_lands", "_loan", "_needed", "_path")

    def __init__(
        self,
        fs: OverlayFs,
        path: bytes,
        needed: int,
        *,
        follow: bool = False,
        ino: int = 0,
        lands: tuple[int, bytes] | None = None,
    ) -> None:
        self._fs = fs
        self._path = path
        self._needed = needed
        self._follow = follow
        self._ino = ino
        self._lands = lands
        self._fd = -1
        self._loan: AbstractContextManager[bool] | None = None

    def __enter__(self) -> bool:
        lender = self._fs.lender
        if lender is None:
            return False
        fd = os.open(self._path, os.O_PATH | os.O_CLOEXEC | (0 if self._follow else os.O_NOFOLLOW))
        try:
            if os.fstat(fd).st_mode & self._needed == self._needed:
                os.close(fd)
                return False
            loan = lender.lent(fd, self._needed, self._lands)
            changed = loan.__enter__()
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._loan = loan
        if changed and self._ino:
            self._fs.attrs_to_invalidate.append(self._ino)
        return changed

    def __exit__(self, *exc: object) -> None:
        if self._loan is not None:
            try:
                self._loan.__exit__(None, None, None)
            finally:
                os.close(self._fd)
                self._loan = None


class PreserveParentTimes:
    """Within this context something is placed in an upper directory that, for callers, was there before.

    The directory's times are put back, but for the change time, of which the kernel must ask again; and its
    mode does not keep us out.
    """

    __slots__ = ("_access", "_directory", "_fs", "_st")

    def __init__(self, fs: OverlayFs, directory: RealDir) -> None:
        self._fs = fs
        self._directory = directory
        self._access = None if fs.lender is None else fs.lend(directory, PLACE)

    def __enter__(self) -> None:
        self._st = os.fstat(self._directory.open())
        if self._access is not None:
            self._access.__enter__()

    def __exit__(self, *exc: object) -> None:
        directory, times = self._directory, (self._st.st_atime_ns, self._st.st_mtime_ns)
        # Best effort, as in overlayfs: the object is in place, and the directory may be another user's.
        if self._access is not None:
            with contextlib.suppress(OSError):
                self._access.__exit__(None, None, None)
        with contextlib.suppress(OSError):
            if self._access is not None or directory.parent is None or directory.pinned:
                os.utime(b"/proc/self/fd/%d" % directory.open(), ns=times)
            else:
                # Cheaper; only a daemon that may search every directory reaches it so.
                os.utime(directory.name, ns=times, dir_fd=directory.parent.open(), follow_symlinks=False)
        self._fs.invalidate_attrs(directory)


def reachable(
    fs: OverlayFs, directory: RealDir, name: bytes, *, is_dir: bool
) -> AbstractContextManager[bool]:
    """Within this context the marks of an object in *directory* can be read, where it is ours.

    Yields whether that has changed the object's change time.
    """
    if fs.lender is None or not directory.layer.is_upper:
        return _NOTHING
    return OwnerAccess(fs, directory.proc_path(name), LIST if is_dir else READ)


def listing_fd(fs: OverlayFs, directory: RealDir) -> int:
    """A new readable descriptor of a directory, whatever its mode where it is ours; the caller closes it."""
    try:
        return directory.listing_fd()
    except PermissionError:
        if fs.lender is None:
            raise
        if not directory.layer.is_upper:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOATIME
            return open_as_owner(directory.open(), b".", flags)
        with fs.lend(directory, LIST):
            return directory.listing_fd()


def open_data_for_daemon(fs: OverlayFs, inode: File) -> int:
    """Open the file that holds the data to read, whatever its mode: a lower's without changing that."""
    try:
        return inode.open_data(os.O_RDONLY)
    except PermissionError:
        if fs.lender is None:
            raise
    if inode.on_upper and not inode.metacopy:
        return open_for_daemon(fs, inode, os.O_RDONLY)
    directory, name = inode.data_place() if inode.metacopy else inode.real()
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return open_as_owner(directory.open(), name, flags)


def containing(inode: Inode) -> list[RealDir]:
    """The directories in upper by which an object is reached, by each of its names: once each."""
    places = dict.fromkeys(parent.upper for parent, _ in inode.names() if parent.upper is not None)
    if isinstance(inode, File) and inode.updir is not None:
        places[inode.updir] = None
    return list(places)


def lent_for(fs: OverlayFs, inode: File, *more: RealDir) -> AbstractContextManager[None]:
    """Within this context a file is reached where it lies in upper, whatever the mode of its directory.

    That is one directory, however many names it has; *more* are lent as well.
    """
    if fs.lender is None:
        return _NONE
    places = more if inode.updir is None or inode.updir in more else (inode.updir, *more)
    return fs.lend_all(places, PLACE)


def open_for_daemon(fs: OverlayFs, inode: File, flags: int) -> int:
    """Open the real file for a handle that was granted already, whatever the modes are by now."""
    try:
        return inode.open_real(flags)
    except PermissionError:
        if fs.lender is None or not inode.on_upper:
            raise
    with lent_for(fs, inode):
        path, follow = inode.proc_path()
        with OwnerAccess(fs, path, READ | WRITE, follow=follow, ino=inode.ino):
            return inode.open_real(flags)


def set_mark(
    fs: OverlayFs, path: bytes | int, name: str, value: bytes, *, follow: bool = False, ino: int = 0
) -> None:
    """Set one of the union's marks on an object of ours; by descriptor for one that is open for writing."""
    try:
        if isinstance(path, int) or fs.identity.privileged:
            os.setxattr(path, name, value, follow_symlinks=follow or isinstance(path, int))
        else:
            with OwnerAccess(fs, path, WRITE, follow=follow, ino=ino):
                os.setxattr(path, name, value, follow_symlinks=follow)
    except OSError as error:
        # `user.` xattrs exist on regular files and directories only; overlayfs goes without, too.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP) or not name.startswith("user."):
            raise
