"""Copy-up: bringing a lower object into upper, through work, before its first change.

Prepare (slow, any thread): a private object in work gets data, owner, mode, xattrs and times, and is synced.
Commit (state thread): one rename into place. Interrupted anywhere, upper holds the old state (invariant 4).
The rules are those of fs/overlayfs/copy_up.c. Never writes a lower, and never copies marks of the union
along.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from unionfs.linux import syscalls
from unionfs.overlay import index
from unionfs.overlay.access import (
    WRITE,
    OwnerAccess,
    PreserveParentTimes,
    lent_for,
    open_data_for_daemon,
    set_mark,
)
from unionfs.overlay.complete import DataCopyUp
from unionfs.overlay.copy_data import INLINE, copy_data
from unionfs.overlay.copy_metadata import copy_flags, copy_metadata, keep_flags, set_impure
from unionfs.overlay.dir_cache import PRESENT
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir
from unionfs.overlay.readdir import note_upper, upper_has
from unionfs.overlay.under_way import COPY_UP, COPYING, WRITING_OUT, SlowWork
from unionfs.overlay.wait import Wait, perform


def ensure_upper(
    fs: OverlayFs, inode: Inode, *, data: bool = True, truncate: bool = False, changes: bool = True
) -> None:
    """See to it that *inode* lies in upper, parents first.

    *data* False lets a metacopy do (with `metacopy=on`); *truncate* says that the data is about to be cut
    to nothing, so that none is copied; *changes* False that nothing of it is about to be changed. Raises
    `Wait` where data must be copied, EROFS without an upper, ENOSPC and the like from the filesystem.
    """
    fs.writable_work()
    if changes and fs.plain_steps:
        for copy in fs.plain_steps.values():
            copy.note_change(inode)
    if isinstance(inode, Directory):
        upper_dir(fs, inode)
        return
    assert isinstance(inode, File)
    if inode.pending is not None:
        # Also for a change that needs no data: what the task puts back when it ends is from when it began.
        raise Wait(inode.pending)
    if inode.on_upper and not (inode.metacopy and data):
        if inode.pinned and not inode.indexed:
            link_up_all(fs, inode)
        return
    if inode.metacopy:
        # As overlayfs: what has no data below is not copied up, not its metadata alone either.
        inode.data_place()
    if inode.parent is not None:
        upper_dir(fs, inode.parent)
    if _is_ready(fs, inode, needs_data=not truncate and (data or not fs.config.metacopy)):
        return
    task: DataCopyUp | FileCopyUp
    if inode.on_upper and (inode.updir is None or inode.indexed or inode.lstat().st_nlink > 1):
        task = DataCopyUp(fs, inode, truncate)
    else:
        task = FileCopyUp(fs, inode, data, truncate)
    if task.is_slow:
        inode.pending = task
        if task.size > INLINE:
            task.progress = fs.under_way.begin(COPY_UP, inode, task.size)
        raise Wait(task)
    inode.nopen += 1  # the operation goes on with it: the task must not let go of it
    try:
        perform(task)
    finally:
        inode.nopen -= 1


def _is_ready(fs: OverlayFs, inode: File, *, needs_data: bool) -> bool:
    """Put a copy in its place that was prepared ahead, if there is one; `Wait` for an unfinished one."""
    copy = fs.prefetch.take(inode)
    if copy is None:
        return False
    if not needs_data or inode.on_upper:
        fs.prefetch.discard(copy)
        return False
    if not copy.done:
        inode.pending = copy
        raise Wait(copy)
    inode.nopen += 1
    try:
        copy.finish(None)
    finally:
        inode.nopen -= 1
    return True


def upper_dir(fs: OverlayFs, directory: Directory) -> RealDir:
    """The directory in upper, copied up if need be, parents first."""
    if directory.upper is not None:
        return directory.upper
    missing = []
    at = directory
    while at.upper is None:
        missing.append(at)
        if at.parent is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        at = at.parent
    place = at.upper
    for each in reversed(missing):
        place = _copy_up_dir(fs, at, place, each)
        at = each
    return place


def _copy_up_dir(fs: OverlayFs, parent: Directory, place: RealDir, directory: Directory) -> RealDir:
    """Copy one directory up into *place*, which is its *parent* in upper."""
    work = fs.writable_work()
    source = directory.lowers[0]
    fd = source.open()
    temp = work.mkdir()
    path = work.fd_path(temp)
    try:
        copy_flags(fs, b"/proc/self/fd/%d" % fd, path)
        set_mark(fs, path, fs.format.origin, fs.format.encode_origin_at(source.layer, fd))
        copy_metadata(fs, b"/proc/self/fd/%d" % fd, directory.stored(os.fstat(fd)), path, layer=source.layer)
        set_impure(fs, parent)
        # A directory that moves to another parent must be writable itself, for its "..".
        lands = (place.open(), directory.name)
        with PreserveParentTimes(fs, place), OwnerAccess(fs, path, WRITE, lands=lands):
            work.place(temp, place.open(), directory.name)
    except BaseException:
        work.remove(temp)
        raise
    fs.copy_ups += 1
    directory.upper = place.child(directory.name)
    # Its link count is 1 from now on, and the request may be about something below it.
    fs.attrs_to_invalidate.append(directory.ino)
    note_upper(parent, directory.name, PRESENT)
    return directory.upper


class FileCopyUp:
    """Copying one non-directory up. Made and finished on the state thread, run anywhere.

    Also that of a metacopy whose data is wanted: a complete file takes its place in one step.
    """

    __slots__ = (
        "_cuts",
        "_data",
        "_fd",
        "_fs",
        "_inode",
        "_layer",
        "_no_xattrs",
        "_origin",
        "_placed",
        "_readable",
        "_real_ino",
        "_replaces",
        "_seconds",
        "_shared",
        "_source",
        "_st",
        "_temp",
        "_work",
        "is_slow",
        "progress",
        "size",
    )

    def __init__(self, fs: OverlayFs, inode: File, data: bool, truncate: bool) -> None:
        self._fs = fs
        self._inode = inode
        self._work = fs.writable_work()
        self._temp = self._work.temp_name()
        self._replaces = inode.on_upper
        self._placed = False
        self._fd = -1
        self._shared = False
        self._no_xattrs = inode.no_xattrs
        self._real_ino = 0
        self._origin = b""
        self._layer = None if inode.lowdir is None else inode.lowdir.layer
        regular = stat.S_ISREG(inode.mode)
        # A metacopy needs the lower's data; an empty file is a file without data.
        self._data = data or not fs.config.metacopy or not regular
        # The object itself, and the file that holds the data to be copied: mostly one and the same.
        self._source: list[int] = []
        self._readable = False
        try:
            if regular and self._data and not (truncate and inode.metacopy):
                self._open_to_read(needed=not truncate)
            else:
                self._source = [inode.open_real(os.O_PATH | os.O_NOFOLLOW)]
            self._st = inode.stored(os.fstat(self._source[0]))
        except BaseException:
            self._close()
            raise
        self.size = self._st.st_size if regular and not truncate else 0
        self._cuts = regular and truncate and self._st.st_size > 0
        self.is_slow = self._data and fs.is_slow_to_copy(self.size)
        self._seconds = 0.0
        self.progress: SlowWork | None = None

    def _open_to_read(self, *, needed: bool) -> None:
        inode = self._inode
        if inode.metacopy:
            self._source.append(inode.open_real(os.O_PATH | os.O_NOFOLLOW))
        try:
            self._source.append(open_data_for_daemon(self._fs, inode))
            self._readable = not inode.metacopy
        except PermissionError:
            # An ordinary user's daemon may copy a file that it may not read if it needs no data of it.
            if needed and (inode.metacopy or inode.lstat().st_size):
                raise
            self._source.append(inode.open_real(os.O_PATH | os.O_NOFOLLOW))

    @property
    def _copies_data(self) -> bool:
        return self._data and self.size > 0

    def run(self) -> None:
        begun = time.monotonic()
        self.prepare()
        self.write_out_data()
        self._seconds = time.monotonic() - begun

    def prepare(self) -> None:
        """The first part of `run`: make the complete object."""
        fs, st = self._fs, self._st
        if not stat.S_ISREG(st.st_mode):
            self._make_special()
            return
        source = self._source[0] if self._readable else b"/proc/self/fd/%d" % self._source[0]
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        self._fd = fd = os.open(self._temp, flags, 0o600, dir_fd=self._work.fd)
        if self._replaces:
            keep_flags(source, fd)
        else:
            copy_flags(fs, source, fd)
        if self._copies_data:
            note = None if self.progress is None else self.progress.enter(COPYING)
            self._shared = copy_data(self._source[-1], fd, self.size, clone=fs.may_clone, note=note)
            if fs.write_out is not None and not self._shared:
                syscalls.start_writing(fd)  # while the rest is done
        elif self.size:
            os.ftruncate(fd, self.size)
        if not self._data:
            os.setxattr(fd, fs.format.metacopy, b"")
        self._mark_origin(fd)
        self._real_ino = copy_metadata(
            fs, source, st, fd, no_xattrs=self._no_xattrs, layer=None if self._replaces else self._layer
        )
        if self._cuts:
            # Its place in upper is the truncation: should what follows fail, the file has changed.
            os.utime(fd, ns=(st.st_atime_ns, time.time_ns()))

    def write_out_data(self) -> None:
        """The second part: see to it that its data is on disk before its name."""
        if self._copies_data and self._fs.write_out is not None:
            if self.progress is not None:
                self.progress.enter(WRITING_OUT)
            self._fs.write_out(self._fd, self._shared)

    def _make_special(self) -> None:
        st, temp, work, source = self._st, self._temp, self._work.fd, self._source[0]
        if stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(b"", dir_fd=source), temp, dir_fd=work)
        else:
            self._fs.owner_store.mknod(temp, stat.S_IFMT(st.st_mode), st.st_rdev, work)
        path = self._work.fd_path(temp)
        self._mark_origin(path)
        self._real_ino = copy_metadata(self._fs, b"/proc/self/fd/%d" % source, st, path, layer=self._layer)

    def _mark_origin(self, target: bytes | int) -> None:
        """Note on the private object what it is a copy of; without an index only for one with one name."""
        fs = self._fs
        if self._replaces or (self._st.st_nlink > 1 and fs.index_dir is None):
            return
        assert self._layer is not None
        self._origin = fs.format.encode_origin_at(self._layer, self._source[0])
        if self._origin or self._st.st_nlink == 1:
            set_mark(fs, target, fs.format.origin, self._origin)

    def finish(self, error: BaseException | None) -> None:
        """Rename into place, or clear away."""
        self._inode.pending = None
        self._fs.under_way.end(self.progress)
        if self._seconds and self._copies_data and self.size <= INLINE:
            self._fs.pace.note(self._seconds)
        try:
            if error is None and self._replaces:
                self._commit_data()
            elif error is None:
                self._commit()
        finally:
            self.abandon()
            self._fs.table.drop_if_unused(self._inode)

    def abandon(self) -> None:
        """Clear away what is not in its place."""
        self._close()
        if not self._placed:
            self._work.remove(self._temp)

    def _close(self) -> None:
        for fd in self._source:
            os.close(fd)
        self._source = []
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _commit(self) -> None:
        fs, inode, temp, work = self._fs, self._inode, self._temp, self._work
        links = self._st.st_nlink
        parent, name = inode.parent, inode.name
        mode = fs.owner_store.copied_mode(temp, work.fd, self._st)
        index_name = self._origin.hex().encode() if links > 1 else b""
        place = upper_dir(fs, parent) if parent is not None else None
        # Whatever can fail comes before the object is in place: after that nothing does.
        if parent is not None:
            set_impure(fs, parent)
        if links > 1 and inode.nlink is None:
            inode.nlink = links
        if index_name and fs.index_dir is not None:
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
                work.remove(temp)
        else:
            with PreserveParentTimes(fs, place):
                work.place(temp, place.open(), name)
            inode.updir, inode.upname = place, name
            assert parent is not None
            note_upper(parent, name, PRESENT)
            inode.forget_lower_name(parent, name)
        self._placed = True
        # The copy has a change time of its own, and an open(2) answers no attributes.
        fs.attrs_to_invalidate.append(inode.ino)
        inode.real_ino = self._real_ino
        inode.mode = mode
        inode.no_capability = False
        inode.metacopy = not self._data
        if inode.metacopy and inode.datadir is None:
            inode.datadir, inode.dataname = inode.lowdir, inode.lowname
        fs.copy_ups += 1
        if parent is not None and links == 1 and self._copies_data and self.size <= INLINE:
            if fs.layers_static and fs.write_out is not None:
                fs.background_jobs += fs.prefetch.note(
                    parent, name, lambda child: FileCopyUp(fs, child, True, False)
                )
        elif inode.indexed:
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
        if inode.updir is None:
            # It lost its name meanwhile and was served by descriptor: so is the complete file.
            fd = os.open(temp, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work.fd)
            inode.close()
            inode.fd = fd
            work.remove(temp)
        else:
            with PreserveParentTimes(fs, inode.updir):
                os.rename(temp, inode.upname, src_dir_fd=work.fd, dst_dir_fd=inode.updir.open())
        self._placed = True
        inode.real_ino = self._real_ino
        inode.metacopy = False
        inode.no_capability = False
        fs.attrs_to_invalidate.append(inode.ino)
        fs.copy_ups += 1


def link_up(fs: OverlayFs, inode: File, parent: Directory, name: bytes) -> None:
    """Give a copied-up file its entry in upper under a further name that so far only a lower has."""
    place = upper_dir(fs, parent)
    with lent_for(fs, inode, place):
        there = (inode.updir is place and inode.upname == name) or upper_has(parent, place, name)
    if there:
        inode.forget_lower_name(parent, name)
        return
    index.store_nlink(fs, inode, by_lower=True)
    set_impure(fs, parent)
    with PreserveParentTimes(fs, place):
        link_real(inode, place.open(), name)
    note_upper(parent, name, PRESENT)
    inode.forget_lower_name(parent, name)
    reach_by_name(fs, inode, place, name)


def link_up_all(fs: OverlayFs, inode: File) -> None:
    """Give a copied-up file its entry in upper under every name that is known.

    Which of them the caller has used, no request says; without an index, a name that upper lacks would
    show the lower's data after a remount.
    """
    for parent, name in list(inode.lower_names or ()):
        link_up(fs, inode, parent, name)


def reach_by_name(fs: OverlayFs, inode: File, place: RealDir, name: bytes) -> None:
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
