"""Giving and taking names: link, unlink, rmdir.

Each is one atomic step in upper; a whiteout is written only where a lower layer has the name, and comes out
of work. The rules are those of fs/overlayfs/dir.c. New objects are made in `create.py`; rename is in
`rename.py`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from unionfs.linux import syscalls
from unionfs.overlay import aufs, index
from unionfs.overlay.access import WRITE, OwnerAccess
from unionfs.overlay.copy_metadata import set_impure
from unionfs.overlay.copy_up import ensure_upper, link_real, link_up, reach_by_name, upper_dir
from unionfs.overlay.dir_cache import HIDDEN, PRESENT
from unionfs.overlay.format import WHITEOUT_PREFIX
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir, is_whiteout_device
from unionfs.overlay.namei import find, lower_has
from unionfs.overlay.protect import check_changeable, check_create, check_delete
from unionfs.overlay.readdir import is_empty, note_upper, upper_has
from unionfs.overlay.redirect import set_redirect
from unionfs.overlay.work import Litter


def failure(code: int) -> OSError:
    """The error that a caller sees."""
    return OSError(code, os.strerror(code))


@dataclass(slots=True)
class Slot:
    """A name in upper at which something is to be placed: the directory and what is there now.

    `whiteout` is a device 0/0, `mark` a file `.wh.NAME` beside.
    """

    place: RealDir
    whiteout: bool
    lower: bool
    mark: bool = False


def check_new_name(name: bytes) -> None:
    """EINVAL for a name that a mount with this layer would take for a mark."""
    if name.startswith(WHITEOUT_PREFIX):
        raise failure(errno.EINVAL)


def find_slot(fs: OverlayFs, parent: Directory, name: bytes) -> Slot:
    """Look at a name before something is placed at it; the parent is copied up. May raise `Wait` before."""
    check_new_name(name)
    fs.writable_work()
    lower = lower_has(fs, parent, name)
    place = upper_dir(fs, parent)
    if parent.cache is not None and parent.cache.upper.get(name) is not HIDDEN:
        return Slot(place, False, lower)
    st = place.lstat(name)
    if st is None and (parent.cache is not None or fs.aufs or not fs.layers_static):
        return Slot(place, False, lower, place.has(WHITEOUT_PREFIX + name))
    return Slot(place, st is not None and is_whiteout_device(st), lower)


def link(fs: OverlayFs, inode: Inode, parent: Directory, name: bytes) -> os.stat_result:
    """link(2): a further name for a file, which is copied up first."""
    if not isinstance(inode, File):
        raise failure(errno.EPERM)
    if find(fs, parent, name) is not None:
        raise failure(errno.EEXIST)
    fs.writable_work()
    check_create(fs, parent)
    check_changeable(fs, inode)
    lower_has(fs, parent, name)  # may raise Wait: before the copy-up
    ensure_upper(fs, inode, data=False)
    if inode.metacopy:
        set_redirect(fs, inode, absolute=True)
    slot = find_slot(fs, parent, name)
    index.store_nlink(fs, inode)
    if inode.from_lower:
        set_impure(fs, parent)
    if slot.whiteout:
        work = fs.writable_work()
        temp = work.temp_name()
        link_real(inode, work.fd, temp)
        try:
            os.rename(temp, name, src_dir_fd=work.fd, dst_dir_fd=slot.place.open())
        except BaseException:
            work.remove(temp)
            raise
    else:
        link_real(inode, slot.place.open(), name)
        if slot.mark:
            aufs.unhide(slot.place, name)
    note_upper(parent, name, PRESENT)
    fs.table.attach(inode, parent, name)
    if inode.nlink is not None:
        inode.nlink += 1
    reach_by_name(fs, inode, slot.place, name)
    return inode.lstat()


# --- removing -----------------------------------------------------------------------------------


def unlink(fs: OverlayFs, parent: Directory, name: bytes) -> None:
    """unlink(2)."""
    inode = find(fs, parent, name)
    if inode is None:
        raise failure(errno.ENOENT)
    if not isinstance(inode, File):
        raise failure(errno.EISDIR)
    work = fs.writable_work()
    check_delete(fs, parent, inode)
    lower = lower_has(fs, parent, name)
    if lower and fs.aufs:
        aufs.check_name(name)
    prepare_unlink(fs, inode, parent, name)
    place = upper_dir(fs, parent)
    at = place.open()
    if lower and fs.aufs:
        hidden = aufs.hide(fs, place, name)
        try:
            if upper_has(parent, place, name):
                os.unlink(name, dir_fd=at)
        except BaseException:
            if hidden:
                aufs.unhide(place, name)
            raise
    elif parent.lowers and not upper_has(parent, place, name):
        work.link_whiteout(at, name)
    elif lower:
        work.cover(at, name)
    else:
        os.unlink(name, dir_fd=at)
    note_upper(parent, name, HIDDEN if lower else None)
    finish_unlink(fs, inode, parent, name)


def prepare_unlink(fs: OverlayFs, inode: File, parent: Directory, name: bytes) -> None:
    """What must be so before a file loses one of its names; may raise `Wait`.

    The link count is known (and with an index stored), and an inode that is still in use stays
    reachable: under another name, else by descriptor.
    """
    if inode.nlink is None and not inode.on_upper and (inode.lower_names is not None or not fs.layers_static):
        st = inode.lstat()
        if st.st_nlink > 1:
            if fs.index_dir is None:
                inode.nlink = st.st_nlink
            else:
                ensure_upper(fs, inode, data=False)
    if inode.indexed:
        link_up(fs, inode, parent, name)
        index.store_nlink(fs, inode)
    if inode.updir is None or inode.updir is not parent.upper or inode.upname != name:
        return
    if inode.indexed and inode.nlink is not None and inode.nlink > 1 and fs.index_dir is not None:
        value = fs.format.read(inode.proc_path()[0], fs.format.origin)
        if value:
            inode.relocate(fs.index_dir, value.hex().encode())
            return
    for directory, other in inode.other_names(parent, name):
        if directory.upper is not None:
            st_other = directory.upper.lstat(other)
            if st_other is not None and st_other.st_ino == inode.real_ino:
                inode.relocate(directory.upper, other)
                return
    if inode.pinned and inode.nlink is not None and inode.nlink > 1:
        # Names that only a lower has are this file too: keep its changes under one of them.
        for directory, other in inode.names():
            if directory is not parent or other != name:
                link_up(fs, inode, directory, other)
                assert directory.upper is not None
                inode.relocate(directory.upper, other)
                return
        assert fs.work_dir is not None
        temp = fs.writable_work().temp_name()
        link_real(inode, fs.work_dir.open(), temp)
        inode.relocate(fs.work_dir, temp)
        return
    if inode.nlookup or inode.nopen or inode.pinned:
        inode.hold()


def finish_unlink(fs: OverlayFs, inode: File, parent: Directory, name: bytes) -> None:
    """Bookkeeping after a file has lost a name."""
    if inode.nlink is not None:
        inode.nlink -= 1
        if inode.nlink == 0:
            held, upname = inode.updir, inode.upname
            if held is not None and (held is fs.work_dir or held is fs.index_dir):
                inode.hold()
            index.remove(fs, inode)
            if held is not None and held is fs.work_dir:
                fs.writable_work().remove(upname)
            inode.pinned = False
        elif not inode.indexed:
            inode.pinned = True
    elif not inode.on_upper:
        # It was its only name: what has it open sees no link, although the lower still has one.
        inode.nlink = 0
    fs.table.detach(inode, parent, name)
    fs.table.drop_if_unused(inode)


def rmdir(fs: OverlayFs, parent: Directory, name: bytes) -> None:
    """rmdir(2) of a directory that is empty to the caller; whiteouts in it go with it."""
    directory = find(fs, parent, name)
    if directory is None:
        raise failure(errno.ENOENT)
    if not isinstance(directory, Directory):
        raise failure(errno.ENOTDIR)
    work = fs.writable_work()
    check_delete(fs, parent, directory)
    lower = lower_has(fs, parent, name)
    if lower or not _rmdir_at_once(parent, directory, name):
        check_empty(fs, directory)
        if lower and fs.aufs:
            aufs.check_name(name)
        place = upper_dir(fs, parent)
        at = place.open()
        if lower and fs.aufs:
            aufs.hide(fs, place, name)
            if directory.upper is not None:
                directory.upper.pin()
                remove_upper_dir(fs, place, name)
        elif directory.upper is None:
            work.link_whiteout(at, name)
        else:
            directory.upper.pin()
            if lower:
                whiteout = work.whiteout()
                # A directory that moves to another parent must be writable itself, for its "..".
                try:
                    with OwnerAccess(fs, place.proc_path(name), WRITE):
                        syscalls.renameat2(work.fd, whiteout, at, name, syscalls.RENAME_EXCHANGE)
                finally:
                    discard(fs, whiteout)
            else:
                remove_upper_dir(fs, place, name)
    note_upper(parent, name, HIDDEN if lower else None)
    fs.table.detach(directory, parent, name)
    fs.table.drop_if_unused(directory)


def _rmdir_at_once(parent: Directory, directory: Directory, name: bytes) -> bool:
    """Remove a directory that is in upper only and holds nothing, no whiteout either; False if it is not."""
    upper, place = directory.upper, parent.upper
    if upper is None or place is None or directory.lowers:
        return False
    upper.pin()
    try:
        os.rmdir(name, dir_fd=place.open())
    except OSError as error:
        upper.unpin()
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def check_empty(fs: OverlayFs, directory: Directory) -> None:
    """Raise ENOTEMPTY when a caller would see anything in it."""
    if not is_empty(fs, directory):
        raise failure(errno.ENOTEMPTY)


def remove_upper_dir(fs: OverlayFs, place: RealDir, name: bytes) -> None:
    """Remove an upper directory that holds at most whiteouts, in one visible step."""
    work = fs.writable_work()
    try:
        os.rmdir(name, dir_fd=place.open())
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    temp = work.temp_name()
    # A directory that moves to another parent must be writable itself, for its "..".
    with OwnerAccess(fs, place.proc_path(name), WRITE):
        os.rename(name, temp, src_dir_fd=place.open(), dst_dir_fd=work.fd)
    discard(fs, temp)


def discard(fs: OverlayFs, temp: bytes, *, is_dir: bool = True) -> None:
    """Remove what is in work by now, if it is there; what cannot be removed at once is left to a worker.

    It never fails: what made it litter is done, or has failed with an errno of its own.
    """
    work = fs.writable_work()
    try:
        (os.rmdir if is_dir else os.unlink)(temp, dir_fd=work.fd)
    except FileNotFoundError:
        return
    except OSError:
        fs.background_jobs.append(Litter(work, temp))
