"""Extended attributes and ACLs as callers see them: the union's own marks never show.

A caller's `overlay.X` is stored as `overlay.overlay.X`, so that unions can be nested (as overlayfs does since
Linux 6.7). An object that is known to have none (`Inode.no_xattrs`) is not asked: `ls -l` and `cp -a` want to
know about every file. That lasts until one is set; every change comes through the mount.
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.linux import xattr
from unionfs.linux.as_owner import attributes_as_owner
from unionfs.overlay.copy_up import ensure_upper
from unionfs.overlay.cred import CAP_FSETID, CAP_SYS_ADMIN, Caller
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import Layer
from unionfs.overlay.owners import override_stat
from unionfs.overlay.protect import check_changeable

_CAPABILITY = b"security.capability"
_ACLS = b"system.posix_acl_"
_ACCESS_ACL = b"system.posix_acl_access"


def _absent() -> OSError:
    return OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def stored_name(fs: OverlayFs, layer: Layer, name: bytes) -> bytes:
    """How a layer stores an attribute that callers know by this name."""
    stored = fs.format.xattrs.to_stored(name)
    return override_stat.isolated(stored) if layer.isolates_security else stored


def shown_name(fs: OverlayFs, layer: Layer, stored: bytes) -> bytes | None:
    """The name by which callers know an attribute of a layer; None for one that is not shown."""
    name = override_stat.unisolated(stored) if layer.isolates_security else stored
    return None if name is None else fs.format.xattrs.to_shown(name)


def _refuse(fs: OverlayFs, name: bytes) -> None:
    """EOPNOTSUPP for what `noxattrs` or `noacl` turns off."""
    if name.startswith(fs.refused_xattrs):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def _layer(fs: OverlayFs, inode: Inode) -> Layer:
    if inode.on_upper:
        assert fs.upper is not None
        return fs.upper
    if isinstance(inode, File):
        return inode.real()[0].layer
    assert isinstance(inode, Directory)
    return inode.top.layer


def getxattr(fs: OverlayFs, inode: Inode, name: bytes) -> bytes:
    """One attribute; ENODATA where it is not set."""
    if fs.refused_xattrs:
        _refuse(fs, name)
    layer = _layer(fs, inode)
    kind = name if name.startswith(b"system.") else name.partition(b".")[0]
    if (
        inode.no_xattrs
        and kind in layer.has_answered
        # Of the security attributes upper may get others by itself (IMA, EVM).
        and (kind != b"security" or name == _CAPABILITY or not layer.is_upper)
        and not name.endswith(b".")
    ):
        raise _absent()
    if name == _CAPABILITY and isinstance(inode, File) and inode.no_capability:
        # The kernel asks for it before every write.
        raise _absent()
    value = _read(fs, layer, inode, name)
    if value is None:
        layer.has_answered.add(kind)
        if name == _CAPABILITY and isinstance(inode, File):
            inode.no_capability = True
        raise _absent()
    return inode.show_acl(name, value) if name.startswith(_ACLS) else value


def _read(fs: OverlayFs, layer: Layer, inode: Inode, name: bytes) -> bytes | None:
    """What the topmost real object has; None where it is not set."""
    stored = stored_name(fs, layer, name)
    try:
        if isinstance(inode, File) and inode.fd < 0:
            directory, real = inode.real()
            return xattr.get_at(directory.open(), real, stored)
        path, follow = inode.proc_path()
        return os.getxattr(path, stored, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        if error.errno == errno.EOPNOTSUPP and name.startswith(_ACLS):
            # A layer without ACLs has none to check; fuse.ko takes only this answer for it.
            return None
        raise


def lower_attribute(fs: OverlayFs, inode: Inode, name: bytes) -> bytes:
    """One attribute of a lower object of the daemon's user, whatever its mode."""
    path, follow = inode.proc_path()
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        value = attributes_as_owner(fd).get(os.fsdecode(stored_name(fs, _layer(fs, inode), name)))
    finally:
        os.close(fd)
    if value is None:
        raise _absent()
    return value


def _stored_names(inode: Inode) -> list[str]:
    if isinstance(inode, File) and inode.fd < 0:
        if inode.no_xattrs and not inode.on_upper:
            return []
        directory, real = inode.real()
        return xattr.list_at(directory.open(), real)
    path, follow = inode.proc_path()
    return os.listxattr(path, follow_symlinks=follow)


def listxattr(fs: OverlayFs, inode: Inode, caller: Caller) -> list[bytes]:
    """The names that *caller* may see: `trusted.` ones only with CAP_SYS_ADMIN."""
    _refuse(fs, b"")
    shown = []
    trusted: bool | None = None
    layer = _layer(fs, inode)
    for stored in _stored_names(inode):
        name = shown_name(fs, layer, os.fsencode(stored))
        if name is None or name.startswith(fs.refused_xattrs):
            continue
        if name.startswith(b"trusted."):
            if trusted is None:
                trusted = caller.has_capability(CAP_SYS_ADMIN)
            if not trusted:
                continue
        shown.append(name)
    return shown


def setxattr(fs: OverlayFs, inode: Inode, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
    """Set one attribute; *flags* may be XATTR_CREATE or XATTR_REPLACE. May raise `Wait`."""
    fs.writable_work()
    _refuse(fs, name)
    fs.format.xattrs.check_settable(name)
    check_changeable(fs, inode)
    if name.startswith(_ACLS):
        value = inode.acl_to_store(value)
    if name == _ACCESS_ACL:
        _drop_setgid(fs, inode, caller)
    ensure_upper(fs, inode, data=False)
    path, follow = inode.proc_path()
    inode.no_xattrs = False
    os.setxattr(path, stored_name(fs, _layer(fs, inode), name), value, flags, follow_symlinks=follow)
    if isinstance(inode, File):
        inode.no_capability = False
    if name == _ACCESS_ACL:
        inode.access_acl_was_set(value)
        inode.mode = inode.lstat().st_mode


def removexattr(fs: OverlayFs, inode: Inode, name: bytes, caller: Caller) -> None:
    """Remove one attribute; ENODATA, without a copy-up, where it is not set. May raise `Wait`."""
    fs.writable_work()
    _refuse(fs, name)
    check_changeable(fs, inode)
    if name == _ACCESS_ACL:
        _drop_setgid(fs, inode, caller)
    if not inode.on_upper:
        path, follow = inode.proc_path()
        stored = stored_name(fs, _layer(fs, inode), name)
        try:
            os.getxattr(path, stored, follow_symlinks=follow)
        except PermissionError:
            # To remove one takes no permission to read it, and none is needed for the names.
            if os.fsdecode(stored) not in os.listxattr(path, follow_symlinks=follow):
                raise _absent() from None
    ensure_upper(fs, inode, data=False)
    path, follow = inode.proc_path()
    os.removexattr(path, stored_name(fs, _layer(fs, inode), name), follow_symlinks=follow)
    if name == _ACCESS_ACL:
        inode.mode = inode.lstat().st_mode


def _drop_setgid(fs: OverlayFs, inode: Inode, caller: Caller) -> None:
    """Before an access ACL is set or removed, setgid goes, unless the caller may keep it (ovl_set_acl()).

    It is a change of its own: it copies up, and lasts where the ACL then cannot be set, or is not there.
    """
    if not inode.mode & stat.S_ISGID:
        return
    st = inode.lstat()
    if caller.in_group(st.st_gid) or caller.has_capability(CAP_FSETID, st):
        return
    ensure_upper(fs, inode, data=False)
    mode = st.st_mode & ~stat.S_ISGID
    inode.set_mode(mode)
    inode.mode = mode
