"""In which respects two real objects differ, as callers of the union see them.

Inode numbers, link counts, access and change times are not among these: copying an object up changes them.
Reads data only where nothing else differs, for two files of the same size and modification time are nearly
always equal. Never follows a symlink and never opens anything but regular files.
"""

from __future__ import annotations

import os
import stat

from unionfs.linux import fileattr, xattr
from unionfs.linux.as_owner import attributes_as_owner, open_as_owner
from unionfs.offline.layer_view import top
from unionfs.overlay.format import Format
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.iget import Found, Hit
from unionfs.overlay.layer import RealDir
from unionfs.overlay.owners.override_stat import unisolated
from unionfs.overlay.xattr_names import FUSE_OVERLAYFS_PREFIX

_PIECE = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_SHOWN = frozenset(
    (b"security.evm", *(f"{FUSE_OVERLAYFS_PREFIX}{mark}".encode() for mark in ("opaque", "origin")))
)
"""Attributes of the real object that the union does not show: a signature of the inode, and marks."""


def differences(fs: OverlayFs, union: Found, below: Found) -> tuple[str, ...]:
    """How what the union shows differs from what the lowers have; empty: not at all.

    `type` alone when it is something else altogether. Raises OSError where one of them cannot be read.
    """
    ours, theirs = top(union), top(below)
    if stat.S_IFMT(ours.st.st_mode) != stat.S_IFMT(theirs.st.st_mode):
        return ("type",)
    found = attribute_differences(fs.format, ours, theirs)
    if ours.st.st_mtime_ns != theirs.st.st_mtime_ns:
        found.append("mtime")
    mode = ours.st.st_mode
    if stat.S_ISREG(mode):
        if ours.st.st_size != theirs.st.st_size:
            found.append("size")
        elif not found and not _same_data(data_place(fs, union), data_place(fs, below)):
            found.append("data")
    elif stat.S_ISLNK(mode):
        if _readlink(ours) != _readlink(theirs):
            found.append("target")
    elif (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and ours.st.st_rdev != theirs.st.st_rdev:
        found.append("device")
    return tuple(found)


def attribute_differences(fmt: Format, ours: Hit, theirs: Hit) -> list[str]:
    """Of mode, owner, extended attributes and the flags that chattr(1) sets those that differ."""
    found = []
    if stat.S_IMODE(ours.st.st_mode) != stat.S_IMODE(theirs.st.st_mode):
        found.append("mode")
    if (ours.st.st_uid, ours.st.st_gid) != (theirs.st.st_uid, theirs.st.st_gid):
        found.append("owner")
    # What the lookup of a moment ago has seen to be none is not asked for again: most files have none.
    if not (ours.no_xattrs and theirs.no_xattrs) and attributes(fmt, ours) != attributes(fmt, theirs):
        found.append("xattrs")
    if _protection(fmt, ours) != _protection(fmt, theirs):
        found.append("flags")
    return found


def attributes(fmt: Format, hit: Hit) -> dict[bytes, bytes]:
    """The extended attributes that the union shows of a real object.

    Raises OSError where they cannot be read, which an object's owner always can.
    """
    names = [os.fsencode(name) for name in fmt.names(hit.directory, hit.name) or ()]
    isolated = hit.directory.layer.isolates_security
    found = {}
    for stored in names:
        shown = unisolated(stored) if isolated else stored
        shown = None if shown is None else fmt.xattrs.to_shown(shown)
        if shown is None or shown in _NOT_SHOWN:
            continue
        value = _value(hit, stored)
        if value is not None:
            found[shown] = value
    return found


def _value(hit: Hit, stored: bytes) -> bytes | None:
    at = hit.directory.open()
    try:
        return xattr.get_at(at, hit.name, stored)
    except PermissionError:  # `user.` ones need the permission to read the file
        fd = os.open(hit.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        return attributes_as_owner(fd).get(os.fsdecode(stored))
    finally:
        os.close(fd)


def _protection(fmt: Format, hit: Hit) -> int:
    """FS_APPEND_FL and FS_IMMUTABLE_FL as the union shows them: of upper's objects, by their marks."""
    if not stat.S_ISREG(hit.st.st_mode) and not stat.S_ISDIR(hit.st.st_mode):
        return 0
    if hit.directory.layer.is_upper:
        return fmt.read_protattr(hit.directory.proc_path(hit.name), follow=False)
    return fileattr.protection_of(fileattr.statx_attributes(hit.directory.open(), hit.name))


def _readlink(hit: Hit) -> bytes:
    return os.readlink(hit.name, dir_fd=hit.directory.open())


def data_place(fs: OverlayFs, found: Found) -> tuple[RealDir, bytes]:
    """Where the data of a regular file lies. Raises OSError where data-only layers have it not."""
    if found.data is not None and fs.data is not None:
        return fs.data.find(found.data)
    hit = found.lowers[-1] if found.lowers else top(found)
    return hit.directory, hit.name


def _same_data(ours: tuple[RealDir, bytes], theirs: tuple[RealDir, bytes]) -> bool:
    with (
        open(open_data(*ours), "rb", _PIECE) as one,
        open(open_data(*theirs), "rb", _PIECE) as other,
    ):
        if os.path.sameopenfile(one.fileno(), other.fileno()):
            return True
        while piece := one.read(_PIECE):
            if piece != other.read(_PIECE):
                return False
        return not other.read(1)


def open_data(directory: RealDir, name: bytes) -> int:
    """Open a regular file to read; its owner can, whatever the mode."""
    at = directory.open()
    try:
        return os.open(name, _OPEN, dir_fd=at)
    except PermissionError:
        return open_as_owner(at, name, _OPEN)
