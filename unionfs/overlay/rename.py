"""rename(2) and its flags, over merged, lower and upper objects: one renameat2 in upper.

What the source's name leaves behind (a whiteout where a lower has the name) and what keeps the moved
directory together with its lower part (a redirect) or apart from a stranger's (opaque) is settled before.
The rules are those of ovl_rename().
"""

from __future__ import annotations

import contextlib
import errno
import os

from unionfs.linux import syscalls
from unionfs.overlay import aufs
from unionfs.overlay.access import WRITE, OwnerAccess, listing_fd, set_mark
from unionfs.overlay.copy_metadata import copy_metadata, set_impure
from unionfs.overlay.copy_tree import make_plain
from unionfs.overlay.copy_up import ensure_upper, link_up
from unionfs.overlay.dir import (
    check_empty,
    check_new_name,
    discard,
    failure,
    find_slot,
    finish_unlink,
    prepare_unlink,
)
from unionfs.overlay.dir_cache import HIDDEN, PRESENT
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir
from unionfs.overlay.namei import find, lower_has
from unionfs.overlay.protect import check_create, check_delete
from unionfs.overlay.readdir import note_listed, note_upper
from unionfs.overlay.redirect import set_redirect

_KNOWN_FLAGS = syscalls.RENAME_NOREPLACE | syscalls.RENAME_EXCHANGE


def rename(
    fs: OverlayFs, olddir: Directory, oldname: bytes, newdir: Directory, newname: bytes, flags: int
) -> None:
    """Rename, with RENAME_NOREPLACE or RENAME_EXCHANGE.

    Raises EXDEV for a directory with a lower part unless `redirect_dir=on`, ENOTEMPTY, EEXIST, ENOENT,
    ENOTDIR, EISDIR; EINVAL for other flags. May raise `Wait`.
    """
    if flags & ~_KNOWN_FLAGS or flags == _KNOWN_FLAGS:
        raise failure(errno.EINVAL)
    exchange = bool(flags & syscalls.RENAME_EXCHANGE)
    old = find(fs, olddir, oldname)
    if old is None:
        raise failure(errno.ENOENT)
    new = find(fs, newdir, newname)
    if new is None and exchange:
        raise failure(errno.ENOENT)
    if new is not None and flags & syscalls.RENAME_NOREPLACE:
        raise failure(errno.EEXIST)
    fs.writable_work()
    if new is old:
        return
    check_delete(fs, olddir, old)
    if new is None:
        check_create(fs, newdir)
    else:
        check_delete(fs, newdir, new)
    if not exchange and new is not None and old.is_dir != new.is_dir:
        raise failure(errno.ENOTDIR if old.is_dir else errno.EISDIR)
    _check_movable(fs, old)
    if exchange:
        assert new is not None
        _check_movable(fs, new)
        _make_movable(fs, new)
    elif isinstance(new, Directory):
        check_empty(fs, new)
    _make_movable(fs, old)

    hides = fs.aufs and not exchange and lower_has(fs, olddir, oldname)
    if hides:
        aufs.check_name(oldname)
    check_new_name(newname)
    source = find_slot(fs, olddir, oldname)
    slot = find_slot(fs, newdir, newname)
    _bring_up(fs, old, olddir, oldname)
    if exchange:
        assert new is not None
        _bring_up(fs, new, newdir, newname)
    elif isinstance(new, File):
        prepare_unlink(fs, new, newdir, newname)

    _keep_together(fs, old, (olddir, oldname), newdir)
    if exchange:
        assert new is not None
        _keep_together(fs, new, (newdir, newname), olddir)
    elif isinstance(new, Directory) and new.upper is not None:
        # Last before the rename itself: what fails before must not find it replaced.
        _clear_whiteouts(fs, new, slot.place, newname)
        new.upper.pin()

    how = 0
    left_whiteout = False
    if exchange:
        how = syscalls.RENAME_EXCHANGE
    elif source.lower and not hides:
        how = syscalls.RENAME_EXCHANGE if slot.whiteout else syscalls.RENAME_WHITEOUT
    elif old.is_dir and slot.whiteout:
        how = syscalls.RENAME_EXCHANGE
        left_whiteout = True
    hidden = hides and aufs.hide(fs, source.place, oldname)
    try:
        syscalls.renameat2(source.place.open(), oldname, slot.place.open(), newname, how)
    except OSError:
        if hidden:
            aufs.unhide(source.place, oldname)
        if isinstance(new, Directory) and new.upper is not None:
            new.upper.unpin()
        raise
    if slot.mark:
        aufs.unhide(slot.place, newname)
    if left_whiteout:
        # A whiteout over nothing does no harm, should it stay; the rename itself is done.
        with contextlib.suppress(OSError):
            os.unlink(oldname, dir_fd=source.place.open())

    if exchange:
        assert new is not None
        fs.table.exchange(old, olddir, oldname, new, newdir, newname)
        note_listed(olddir, oldname)
        note_listed(newdir, newname)
        _move_real(old, source.place, oldname, slot.place, newname)
        _move_real(new, slot.place, newname, source.place, oldname)
    else:
        if isinstance(new, File):
            finish_unlink(fs, new, newdir, newname)
        elif new is not None:
            fs.table.detach(new, newdir, newname)
            fs.table.drop_if_unused(new)
        fs.table.move(old, olddir, oldname, newdir, newname)
        _move_real(old, source.place, oldname, slot.place, newname)
        note_upper(olddir, oldname, HIDDEN if source.lower else None)
        note_upper(newdir, newname, PRESENT)


def _check_movable(fs: OverlayFs, inode: Inode) -> None:
    """EXDEV for a directory whose lower part could not be found again (ovl_can_move())."""
    if isinstance(inode, Directory) and inode.lowers and not fs.config.may_move_lower_dirs:
        raise failure(errno.EXDEV)


def _make_movable(fs: OverlayFs, inode: Inode) -> None:
    """Have no lower part of a directory that needs a redirect and may not have one."""
    if isinstance(inode, Directory) and inode.lowers and not fs.config.redirect_create:
        make_plain(fs, inode)


def _bring_up(fs: OverlayFs, inode: Inode, parent: Directory, name: bytes) -> None:
    """Copy up, and see to it that upper has the very name that is about to move."""
    # Beside its mark a metacopy would be without data (`aufs.py`).
    ensure_upper(fs, inode, data=fs.aufs)
    if isinstance(inode, File):
        link_up(fs, inode, parent, name)


def _keep_together(fs: OverlayFs, inode: Inode, at: tuple[Directory, bytes], newdir: Directory) -> None:
    """Mark what moves from *at* so that it finds its own lower part at the new place, and no stranger's."""
    same_dir = at[0] is newdir
    if isinstance(inode, Directory):
        if inode.lowers:
            set_redirect(fs, inode, absolute=not same_dir, at=at)
            set_impure(fs, newdir)
        elif newdir.merged:
            if not inode.opaque:
                path, follow = inode.proc_path()
                set_mark(fs, path, fs.format.opaque, b"y", follow=follow)
                inode.opaque = True
            # One that is opaque by its attribute only says nothing to a reader of marks.
            if fs.aufs and inode.upper is not None:
                aufs.mark_opaque(fs, inode.upper)
    elif isinstance(inode, File):
        if inode.metacopy:
            set_redirect(fs, inode, absolute=not same_dir or _had_links(inode), at=at)
        if inode.from_lower:
            set_impure(fs, newdir)


def _had_links(inode: File) -> bool:
    """Whether the lower file has several names: upper may have others (ovl_need_absolute_redirect())."""
    st = None if inode.lowdir is None else inode.lowdir.lstat(inode.lowname)
    return st is not None and st.st_nlink > 1


def _clear_whiteouts(fs: OverlayFs, directory: Directory, place: RealDir, name: bytes) -> None:
    """Replace a directory that holds whiteouts only by an empty opaque one, for a rename over it."""
    assert directory.upper is not None
    if not _has_any(fs, directory.upper):
        return
    work = fs.writable_work()
    st = directory.stored(os.fstat(directory.upper.open()))
    temp = work.mkdir()
    try:
        copy_metadata(fs, b"/proc/self/fd/%d" % directory.upper.open(), st, work.fd_path(temp))
        set_mark(fs, work.fd_path(temp), fs.format.opaque, b"y")
        with (
            OwnerAccess(fs, work.fd_path(temp), WRITE, lands=(place.open(), name)),
            OwnerAccess(fs, place.proc_path(name), WRITE),
        ):
            syscalls.renameat2(work.fd, temp, place.open(), name, syscalls.RENAME_EXCHANGE)
        # From here on it is that new directory, in which nothing of below shows.
        directory.upper.layer.dirfds.close(directory.upper)
        directory.lowers = ()
        directory.cache = None
        directory.opaque = True
        directory.redirect = None
    finally:
        discard(fs, temp)


def _has_any(fs: OverlayFs, directory: RealDir) -> bool:
    """Whether the real directory has any entry, a mark or not."""
    fd = listing_fd(fs, directory)
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is not None
    finally:
        os.close(fd)


def _move_real(inode: Inode, source: RealDir, oldname: bytes, target: RealDir, newname: bytes) -> None:
    """Follow a rename in upper: where the object now lies."""
    if isinstance(inode, Directory):
        if inode.upper is not None:
            inode.upper.parent, inode.upper.name = target, newname
    elif isinstance(inode, File) and inode.updir is source and inode.upname == oldname:
        inode.updir, inode.upname = target, newname
