"""Copy-up: bringing a lower object into upper, through work, before its first change.

Prepare (slow, any thread): a private object in work gets data, owner, mode, xattrs and times, and is synced.
Commit (state thread): one rename into place. Interrupted anywhere, upper holds the old state. The rules are
those of fs/overlayfs/copy_up.c. Never writes a lower, and never copies marks of the union along.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from unionfs.overlay import index
from unionfs.overlay.access import PLACE, WRITE, OwnerAccess, set_mark
from unionfs.overlay.copy_data import copy_data
from unionfs.overlay.copy_metadata import copy_flags, copy_metadata, keep_flags, set_impure, set_origin
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir
from unionfs.overlay.readdir import PRESENT, note_upper
from unionfs.overlay.wait import Wait, perform

_INLINE = 128 * 1024
"""Up to this many bytes are copied at once when nothing must be synced: a worker would cost more."""


def ensure_upper(fs: OverlayFs, inode: Inode, *, data: bool = True, truncate: bool = False) -> None:
    """See to it that *inode* lies in upper, parents first.

    *data* False lets a metacopy do (with `metacopy=on`); *truncate* says that the data is about to be cut
    to nothing, so that none is copied. Raises `Wait` where data must be copied, EROFS without an upper,
    ENOSPC and the like from the filesystem.
    """
    fs.writable_work()
    if isinstance(inode, Directory):
        upper_dir(fs, inode)
        return
    assert isinstance(inode, File)
    if inode.copying is not None:
        # Also for a change that needs no data: what the task puts back when it ends is from when it began.
        raise Wait(inode.copying)
    if inode.on_upper and not (inode.metacopy and data):
        if inode.pinned and not inode.indexed:
            link_up_all(fs, inode)
        return
    if inode.parent is not None:
        upper_dir(fs, inode.parent)
    task: DataCopyUp | FileCopyUp
    if inode.on_upper and (inode.updir is None or inode.indexed or inode.lstat().st_nlink > 1):
        task = DataCopyUp(fs, inode, truncate)
    else:
        task = FileCopyUp(fs, inode, data, truncate)
    if task.is_slow:
        inode.copying = task
        raise Wait(task)
    inode.nopen += 1  # the operation goes on with it: the task must not let go of it
    try:
        perform(task)
    finally:
        inode.nopen -= 1


def upper_dir(fs: OverlayFs, directory: Directory) -> RealDir:
    """The directory in upper, copied up if need be, parents first."""
    if directory.upper is not None:
        return directory.upper
    work = fs.writable_work()
    parent = directory.parent
    if parent is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    place = upper_dir(fs, parent)
    source = directory.lowers[0]
    st = os.fstat(source.open())
    temp = work.mkdir()
    try:
        copy_metadata(fs, b"/proc/self/fd/%d" % source.open(), st, work.fd, temp)
        copy_flags(fs, b"/proc/self/fd/%d" % source.open(), work.fd_path(temp))
        set_origin(fs, source.parent, source.name, source, work.fd, temp)
        set_impure(fs, parent)
        # A directory that moves to another parent must be writable itself, for its "..".
        with Placing(fs, place), OwnerAccess(fs, work.fd_path(temp), WRITE):
            work.place(temp, place.open(), directory.name)
    except BaseException:
        work.remove(temp)
        raise
    fs.copy_ups += 1
    directory.upper = RealDir(place.layer, place, directory.name)
    # Its link count is 1 from now on, and the request may be about something below it.
    fs.stale.append(directory.ino)
    note_upper(parent, directory.name, PRESENT)
    return directory.upper


class Placing:
    """Place something in an upper directory that, for the caller, was there before.

    The directory's times are put back, and its mode does not keep us out.
    """

    __slots__ = ("_access", "_path", "_st")

    def __init__(self, fs: OverlayFs, directory: RealDir) -> None:
        self._path = b"/proc/self/fd/%d" % directory.open()
        self._access = OwnerAccess(fs, self._path, PLACE, follow=True)

    def __enter__(self) -> None:
        self._st = os.stat(self._path)
        self._access.__enter__()

    def __exit__(self, *exc: object) -> None:
        st = self._st
        # Best effort, as in overlayfs: the object is in place, and the directory may be another user's.
        with contextlib.suppress(OSError):
            self._access.__exit__()
        with contextlib.suppress(OSError):
            os.utime(self._path, ns=(st.st_atime_ns, st.st_mtime_ns))


class FileCopyUp:
    """Copying one non-directory up. Made and finished on the state thread, run anywhere.

    Also that of a metacopy whose data is wanted: a complete file takes its place in one step.
    """

    __slots__ = (
        "_data",
        "_fs",
        "_inode",
        "_replaces",
        "_size",
        "_source",
        "_st",
        "_temp",
        "_work",
        "is_slow",
    )

    def __init__(self, fs: OverlayFs, inode: File, data: bool, truncate: bool) -> None:
        self._fs = fs
        self._inode = inode
        self._work = fs.writable_work()
        self._temp = self._work.temp_name()
        self._st = st = inode.lstat()
        self._replaces = inode.on_upper
        regular = stat.S_ISREG(st.st_mode)
        # A metacopy needs the lower's data; an empty file is a file without data.
        self._data = data or not fs.config.metacopy or not regular
        self._size = 0 if truncate or not regular else st.st_size
        flags = os.O_PATH | os.O_NOFOLLOW
        self._source = [inode.open_real(flags)]
        if self._data and self._size:
            try:
                self._source.append(inode.open_data(os.O_RDONLY))
            except BaseException:
                os.close(self._source[0])
                raise
        self.is_slow = len(self._source) > 1 and (not fs.config.volatile or self._size > _INLINE)

    def run(self) -> None:
        st, temp, work = self._st, self._temp, self._work.fd
        source = b"/proc/self/fd/%d" % self._source[0]
        fd = -1
        try:
            if stat.S_ISREG(st.st_mode):
                fd = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=work)
                if self._replaces:
                    keep_flags(source, self._work.fd_path(temp))
                else:
                    copy_flags(self._fs, source, self._work.fd_path(temp))
                if len(self._source) > 1:
                    copy_data(self._source[1], fd, self._size)
                elif self._size:
                    os.ftruncate(fd, self._size)
            elif stat.S_ISLNK(st.st_mode):
                os.symlink(os.readlink(b"", dir_fd=self._source[0]), temp, dir_fd=work)
            else:
                os.mknod(temp, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev, dir_fd=work)
            if fd >= 0 and not self._data:
                os.setxattr(fd, self._fs.format.metacopy, b"")
            copy_metadata(self._fs, source, st, work, temp)
            if fd >= 0 and self._data and self._size and not self._fs.config.volatile:
                os.fsync(fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def finish(self, error: BaseException | None) -> None:
        """Rename into place, or clear away."""
        inode = self._inode
        inode.copying = None
        try:
            if error is None and inode.on_upper:
                self._commit_data()
            elif error is None:
                self._commit()
        finally:
            for fd in self._source:
                os.close(fd)
            if inode.updir is None or inode.updir is not self._fs.work_dir or inode.upname != self._temp:
                self._work.remove(self._temp)
            self._fs.table.drop_if_unused(inode)

    def _commit(self) -> None:
        fs, inode, temp, work = self._fs, self._inode, self._temp, self._work
        st = os.stat(temp, dir_fd=work.fd, follow_symlinks=False)
        links = self._st.st_nlink
        keeps_links = links > 1 and fs.index_dir is not None
        assert inode.lowdir is not None
        parent, name = inode.parent, inode.name
        index_name = index.name_of(fs, inode) if keeps_links else None
        place = upper_dir(fs, parent) if parent is not None else None
        if links == 1 or index_name is not None:
            set_origin(fs, inode.lowdir, inode.lowname, None, work.fd, temp)
        # Whatever can fail comes before the object is in place: after that nothing does.
        if parent is not None:
            set_impure(fs, parent)
        if links > 1 and inode.nlink is None:
            inode.nlink = links
        if index_name is not None and fs.index_dir is not None:
            value = f"L{(inode.nlink or links) - links:+d}".encode()
            set_mark(fs, work.fd_path(temp), fs.format.nlink, value)
            work.place(temp, fs.index_dir.open(), index_name)
            inode.updir, inode.upname, inode.indexed = fs.index_dir, index_name, True
        elif place is None:
            # It lost its name meanwhile: a private file that only its open handles reach, or that waits in
            # work for a further name of the lower file to be looked up.
            if links > 1 and inode.nlink:
                inode.updir, inode.upname = fs.work_dir, temp
            else:
                inode.fd = os.open(temp, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work.fd)
        else:
            with Placing(fs, place):
                work.place(temp, place.open(), name)
            inode.updir, inode.upname = place, name
            assert parent is not None
            note_upper(parent, name, PRESENT)
            inode.forget_lower_name(parent, name)
        inode.real_ino = st.st_ino
        inode.mode = st.st_mode
        inode.no_capability = False
        inode.metacopy = not self._data
        if inode.metacopy and inode.datadir is None:
            inode.datadir, inode.dataname = inode.lowdir, inode.lowname
        fs.copy_ups += 1
        if inode.indexed:
            if parent is not None:
                link_up(fs, inode, parent, name)
        elif links > 1:
            # Without an index only this inode knows that the lower's other names are this file too.
            inode.pinned = True
            link_up_all(fs, inode)

    def _commit_data(self) -> None:
        """Put the complete file in the place of the metacopy."""
        fs, inode, temp, work = self._fs, self._inode, self._temp, self._work
        # overlayfs leaves the redirect, too: nothing is looked for by it any more.
        for mark in (fs.format.origin, fs.format.redirect, fs.format.protattr):
            value = fs.format.read(b"/proc/self/fd/%d" % self._source[0], mark, follow=True)
            if value is not None:
                set_mark(fs, work.fd_path(temp), mark, value)
        st = os.stat(temp, dir_fd=work.fd, follow_symlinks=False)
        if inode.updir is None:
            # It lost its name meanwhile and was served by descriptor: so is the complete file.
            fd = os.open(temp, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work.fd)
            os.close(inode.fd)
            inode.fd = fd
        else:
            with Placing(fs, inode.updir):
                os.rename(temp, inode.upname, src_dir_fd=work.fd, dst_dir_fd=inode.updir.open())
        inode.real_ino = st.st_ino
        inode.metacopy = False
        inode.no_capability = False
        fs.stale.append(inode.ino)
        fs.copy_ups += 1


class DataCopyUp:
    """Bringing the data of a metacopy up in place: one with several links, an index entry, or no name.

    Until the mark is gone, readers take the lower's data. Killed meanwhile, it leaves a new mtime, as
    overlayfs always does.
    """

    __slots__ = ("_capability", "_fs", "_inode", "_size", "_source", "_st", "_target", "is_slow")

    def __init__(self, fs: OverlayFs, inode: File, truncate: bool) -> None:
        self._fs = fs
        self._inode = inode
        self._st = inode.lstat()
        self._size = 0 if truncate else self._st.st_size
        self._target = inode.open_real(os.O_RDWR)
        try:
            self._capability = _capability(self._target)
            self._source = inode.open_data(os.O_RDONLY)
        except BaseException:
            os.close(self._target)
            raise
        self.is_slow = self._size > 0 and (not fs.config.volatile or self._size > _INLINE)

    def run(self) -> None:
        # The target keeps its size all the while: with the mark still on, its size is the file's. What an
        # interrupted attempt has left in it is the same data.
        if self._size:
            copy_data(self._source, self._target, self._size)
            if not self._fs.config.volatile:
                os.fsync(self._target)

    def finish(self, error: BaseException | None) -> None:
        inode, st = self._inode, self._st
        inode.copying = None
        # Whoever looked while the data was being written saw the times and lacked the capability.
        inode.no_capability = False
        self._fs.stale.append(inode.ino)
        fmt = self._fs.format
        try:
            if error is None:
                if not self._size and st.st_size:
                    os.ftruncate(self._target, 0)
                os.removexattr(self._target, fmt.metacopy)
                inode.metacopy = False
                self._fs.copy_ups += 1
            # Writing has dropped the capability and changed the times; neither is the caller's doing.
            if self._size:
                if self._capability is not None:
                    os.setxattr(self._target, "security.capability", self._capability)
                os.utime(self._target, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(self._source)
            os.close(self._target)
            self._fs.table.drop_if_unused(inode)


def _capability(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, "security.capability")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def link_up(fs: OverlayFs, inode: File, parent: Directory, name: bytes) -> None:
    """Give a copied-up file its entry in upper under a further name that so far only a lower has."""
    place = upper_dir(fs, parent)
    if place.has(name):
        inode.forget_lower_name(parent, name)
        return
    index.store_nlink(fs, inode, by_lower=True)
    set_impure(fs, parent)
    with Placing(fs, place):
        link_real(inode, place.open(), name)
    note_upper(parent, name, PRESENT)
    inode.forget_lower_name(parent, name)
    settle_at(fs, inode, place, name)


def link_up_all(fs: OverlayFs, inode: File) -> None:
    """Give a copied-up file its entry in upper under every name that is known.

    Which of them the caller has used, no request says; without an index, a name that upper lacks would
    show the lower's data after a remount.
    """
    for parent, name in list(inode.lower_names or ()):
        link_up(fs, inode, parent, name)


def settle_at(fs: OverlayFs, inode: File, place: RealDir, name: bytes) -> None:
    """Reach the upper object by its new name, if so far it was only reached in work or by descriptor."""
    held, upname = inode.updir, inode.upname
    if held is None or held is fs.index_dir or held is fs.work_dir:
        inode.relocate(place, name)
        if held is not None and held is fs.work_dir:
            fs.writable_work().remove(upname)


def link_real(inode: File, dirfd: int, name: bytes) -> None:
    """link(2) the upper object of *inode* to a new name."""
    if inode.updir is not None:
        source = inode.updir.open()
        os.link(inode.upname, name, src_dir_fd=source, dst_dir_fd=dirfd, follow_symlinks=False)
    else:
        os.link(b"/proc/self/fd/%d" % inode.fd, name, dst_dir_fd=dirfd, follow_symlinks=True)
