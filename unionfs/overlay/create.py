"""Making new objects: create, mkdir, mknod, symlink, and files without a name (O_TMPFILE).

Each appears in upper by one atomic step, as the caller's, with all that it shall have. The rules are those of
fs/overlayfs/dir.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from unionfs.linux import syscalls
from unionfs.overlay import aufs
from unionfs.overlay.access import WRITE, OwnerAccess, set_mark
from unionfs.overlay.copy_up import upper_dir
from unionfs.overlay.cred import CAP_FSETID, Acting, Caller, Contexts
from unionfs.overlay.dir import Slot, discard, failure, find_slot
from unionfs.overlay.dir_cache import PRESENT
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.iget import adopt_nameless, adopt_new
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir
from unionfs.overlay.namei import find
from unionfs.overlay.owners import override_stat
from unionfs.overlay.protect import check_create
from unionfs.overlay.readdir import note_upper

Make = Callable[[int, bytes], int | None]
"""Makes one object: (directory descriptor, name). Returns a descriptor if that is open on it."""

Entry = tuple[Inode, os.stat_result]

_DEFAULT_ACL = "system.posix_acl_default"
_GROUP_RUNS = stat.S_ISGID | stat.S_IXGRP
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mkdir(fs: OverlayFs, parent: Directory, name: bytes, mode: int, caller: Caller) -> Entry:
    """mkdir(2). The directory is opaque wherever lowers could show through."""
    return _make(fs, parent, name, caller, lambda at, tail: os.mkdir(tail, mode, dir_fd=at), is_dir=True)


def mknod(fs: OverlayFs, parent: Directory, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
    """mknod(2). A character device 0/0 is refused with EPERM, as by overlayfs: it would be a whiteout."""
    if stat.S_ISCHR(mode) and rdev == 0:
        raise failure(errno.EPERM)

    def make(at: int, tail: bytes) -> None:
        os.mknod(tail, _granted(parent, mode, caller), rdev, dir_fd=at)

    return _make(fs, parent, name, caller, make)


def symlink(fs: OverlayFs, parent: Directory, name: bytes, target: bytes, caller: Caller) -> Entry:
    """symlink(2)."""
    return _make(fs, parent, name, caller, lambda at, tail: os.symlink(target, tail, dir_fd=at))


def create(
    fs: OverlayFs, parent: Directory, name: bytes, mode: int, access: int, caller: Caller
) -> tuple[Inode, os.stat_result, int]:
    """Make an empty regular file and open it; *access* is O_RDONLY, O_WRONLY or O_RDWR.

    It is opened as it is made, for its mode (0444, say) may forbid to an ordinary user to open it later.
    """
    fds: list[int] = []

    def make(at: int, tail: bytes) -> int:
        flags = access | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(tail, flags, stat.S_IMODE(_granted(parent, mode, caller)), dir_fd=at)
        fds.append(fd)
        return fd

    try:
        inode, st = _make(fs, parent, name, caller, make)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return inode, st, fds[0]


def tmpfile(
    fs: OverlayFs, parent: Directory, mode: int, flags: int, caller: Caller
) -> tuple[File, os.stat_result, int]:
    """Make a regular file without a name (O_TMPFILE) and open it; EOPNOTSUPP where upper cannot.

    Of *flags* the access mode matters, and O_EXCL: it shall never have a name. Else `link` may give it one.
    """
    fs.writable_work()
    check_create(fs, parent)
    acting = fs.identity.acting_as(caller)
    place = upper_dir(fs, parent)
    how = flags & (os.O_ACCMODE | os.O_EXCL) | os.O_TMPFILE | os.O_CLOEXEC
    work = fs.writable_work()
    with acting:
        at = work.fd if fs.owner_store.needs_private_creation else place.open()
        fd = os.open(b".", how, stat.S_IMODE(_granted(parent, mode, caller)), dir_fd=at)
    try:
        parent.complete_new(fd, place.open(), caller)
        _set_contexts(fs, fd, caller.contexts)
        inode, st = adopt_nameless(fs, fd)
    except BaseException:
        os.close(fd)
        raise
    return inode, st, fd


def _granted(parent: Directory, mode: int, caller: Caller) -> int:
    """The mode that *caller* may give to a new file in *parent* (mode_strip_sgid()).

    Acting as the caller we still hold CAP_FSETID, so the filesystem would let it have any.
    """
    if mode & _GROUP_RUNS != _GROUP_RUNS or not parent.mode & stat.S_ISGID:
        return mode
    st = parent.lstat()
    if caller.in_group(st.st_gid) or caller.has_capability(CAP_FSETID, st):
        return mode
    return mode & ~stat.S_ISGID


def _set_contexts(fs: OverlayFs, target: bytes | int, contexts: Contexts) -> None:
    """Set the security attributes of a new object that only this daemon can reach."""
    isolates = fs.upper is not None and fs.upper.isolates_security
    for name, value in contexts:
        try:
            stored = override_stat.isolated(name) if isolates else name
            os.setxattr(target, stored, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            # A filesystem without them goes by what its mount says, as for every object of its own. A symlink
            # or a device has no `user.` ones (EPERM).
            if error.errno != errno.EOPNOTSUPP and not (isolates and error.errno == errno.EPERM):
                raise


def _make(
    fs: OverlayFs, parent: Directory, name: bytes, caller: Caller, make: Make, *, is_dir: bool = False
) -> Entry:
    if find(fs, parent, name) is not None:
        raise failure(errno.EEXIST)
    fs.writable_work()
    check_create(fs, parent)
    acting = fs.identity.acting_as(caller)
    slot = find_slot(fs, parent, name)
    place = slot.place
    opaque = is_dir and (slot.whiteout or slot.lower or slot.mark)
    if slot.whiteout or opaque or caller.contexts or fs.owner_store.needs_private_creation:
        fd = _make_through_work(fs, parent, slot, name, caller, acting, make, is_dir=is_dir, opaque=opaque)
    else:
        with acting:
            fd = make(place.open(), name)
    if slot.mark:
        aufs.unhide(place, name)
    if is_dir and not opaque and parent.merged and not fs.config.offline_changes:
        # No lower has the name: this only saves looking for it there, and may fail, as in overlayfs.
        with contextlib.suppress(OSError):
            set_mark(fs, place.proc_path(name), fs.format.opaque, b"y")
            opaque = True
    note_upper(parent, name, PRESENT)
    inode, st = adopt_new(fs, parent, name, place, opaque=opaque, fd=fd)
    # A default ACL is what there is to inherit; the root's attributes have not been read.
    inode.no_xattrs = parent.no_xattrs and not caller.contexts
    return inode, st


def _make_through_work(
    fs: OverlayFs,
    parent: Directory,
    slot: Slot,
    name: bytes,
    caller: Caller,
    acting: Acting,
    make: Make,
    *,
    is_dir: bool,
    opaque: bool,
) -> int | None:
    """Make an object in work, complete it, and put it in its place, a whiteout's perhaps, in one step."""
    work = fs.writable_work()
    place = slot.place.open()
    inherit_dir = None if fs.owner_store.needs_private_creation else _inherit_dir(fs, slot.place)
    at = work.fd if inherit_dir is None else os.open(inherit_dir, _OPEN_DIR, dir_fd=work.fd)
    temp = work.temp_name()
    try:
        with acting:
            fd = make(at, temp)
        path = b"/proc/self/fd/%d/%s" % (at, temp)
        parent.complete_new(path, place, caller)
        _set_contexts(fs, path, caller.contexts)
        if opaque:
            set_mark(fs, path, fs.format.opaque, b"y")
            if fs.aufs:
                aufs.mark_new_opaque(fs, path)
        if slot.whiteout and not is_dir:
            os.rename(temp, name, src_dir_fd=at, dst_dir_fd=place)
        else:
            how = syscalls.RENAME_EXCHANGE if slot.whiteout else syscalls.RENAME_NOREPLACE
            # A directory that moves to another parent must be writable itself, for its "..".
            lands = (place, name)
            with OwnerAccess(fs, path, WRITE, lands=lands) if is_dir else contextlib.nullcontext():
                syscalls.renameat2(at, temp, place, name, how)
    except BaseException:
        if inherit_dir is None:
            discard(fs, temp, is_dir=is_dir)
        raise
    finally:
        if inherit_dir is not None:
            os.close(at)
            discard(fs, inherit_dir)
    if is_dir and slot.whiteout and inherit_dir is None:
        discard(fs, temp, is_dir=False)
    return fd


def _inherit_dir(fs: OverlayFs, parent: RealDir) -> bytes | None:
    """A directory in work from which a new object inherits what it would inherit from *parent*.

    The filesystem then applies setgid and default ACLs by itself. None where there is nothing to inherit.
    """
    st = os.fstat(parent.open())
    path = b"/proc/self/fd/%d" % parent.open()
    acl = fs.format.read(path, _DEFAULT_ACL, follow=True)
    if acl is None and not st.st_mode & stat.S_ISGID:
        return None
    work = fs.writable_work()
    inherit_dir = work.mkdir()
    try:
        fs.owner_store.chown(work.fd_path(inherit_dir), -1, st.st_gid)
        syscalls.chmod_no_symlink(inherit_dir, 0o700 | st.st_mode & stat.S_ISGID, work.fd)
        if acl is not None:
            os.setxattr(work.fd_path(inherit_dir), _DEFAULT_ACL, acl, follow_symlinks=False)
    except BaseException:
        work.remove(inherit_dir)
        raise
    return inherit_dir
