"""`work/index/`: hard links by origin, so that a lower file's names stay one file after its copy-up.

With `index=on`, a lower file with several links is copied up to `index/<origin in hex>` and linked from there
to each name that is changed; `overlay.nlink` on it keeps the union's link count, relative to the upper or the
lower inode's, whichever does not change in the same step. As fs/overlayfs does. Only files with more than one
link are indexed; directories would be for NFS export, which a FUSE mount has by other means.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import File

_NLINK = re.compile(rb"([LU])([+-]\d+)")


def name_of(fs: OverlayFs, inode: File) -> bytes | None:
    """The index name of a lower file; None where its filesystem has no file handles."""
    assert inode.lowdir is not None
    origin = fs.format.encode_origin(inode.lowdir.layer, inode.lowdir, inode.lowname)
    return origin.hex().encode() or None


def find(fs: OverlayFs, inode: File, lower: os.stat_result) -> None:
    """Give a lower inode the upper object that its index entry is, where it has one."""
    assert fs.index_dir is not None
    name = name_of(fs, inode)
    st = fs.index_dir.lstat(name) if name is not None else None
    if name is None or st is None or stat.S_IFMT(st.st_mode) != stat.S_IFMT(lower.st_mode):
        return
    inode.updir, inode.upname = fs.index_dir, name
    inode.no_xattrs = False
    inode.real_ino = st.st_ino
    inode.mode = st.st_mode
    inode.indexed = True
    inode.nlink = _union_nlink(fs, inode, st.st_nlink, lower.st_nlink)
    marks = fs.format.names(fs.index_dir, name) or ()
    if fs.format.metacopy in marks:
        inode.metacopy = True
        if fs.format.redirect in marks:
            # Else the next rename would write one to a name at which no lower has the data (ovl_lookup()).
            inode.redirect = fs.format.read_redirect(fs.index_dir.proc_path(name))
        if inode.datadir is None:
            inode.datadir, inode.dataname = inode.lowdir, inode.lowname
    else:
        inode.metacopy = False


def has(fs: OverlayFs, origin: bytes, upper: os.stat_result) -> bool:
    """Whether an upper file is the index entry of this origin, which it has."""
    if fs.index_dir is None or upper.st_nlink < 2:
        return False
    entry = fs.index_dir.lstat(origin.hex().encode())
    return entry is not None and entry.st_ino == upper.st_ino


def adopt(fs: OverlayFs, inode: File, upper: os.stat_result, lower: os.stat_result) -> None:
    """Take the union's link count for an upper file that is the index entry of its origin."""
    inode.indexed = True
    inode.nlink = _union_nlink(fs, inode, upper.st_nlink, lower.st_nlink)


def store_nlink(fs: OverlayFs, inode: File, *, by_lower: bool = False) -> None:
    """Write the union's link count, before the link or unlink that will change upper's count along with it.

    *by_lower*: relative to the lower inode, for a step that changes only upper's count (a copy-up's link).
    """
    if not inode.indexed or inode.nlink is None:
        return
    if by_lower:
        assert inode.lowdir is not None
        base, letter = os.stat(inode.lowname, dir_fd=inode.lowdir.open(), follow_symlinks=False).st_nlink, "L"
    else:
        base, letter = inode.lstat().st_nlink, "U"
    path, follow = inode.proc_path()
    value = f"{letter}{inode.nlink - base:+d}".encode()
    os.setxattr(path, fs.format.nlink, value, follow_symlinks=follow)


def remove(fs: OverlayFs, inode: File) -> None:
    """Take the index entry of a file away that has lost its last name."""
    if not inode.indexed or fs.index_dir is None:
        return
    path, follow = inode.proc_path()
    origin = fs.format.read(path, fs.format.origin, follow=follow)
    if origin:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(origin.hex().encode(), dir_fd=fs.index_dir.open())
    inode.indexed = False


def _union_nlink(fs: OverlayFs, inode: File, upper: int, lower: int) -> int:
    """The link count that `overlay.nlink` says; without a sound one, what upper has besides the index."""
    value = fs.format.read(inode.proc_path()[0], fs.format.nlink)
    match = _NLINK.fullmatch(value) if value else None
    if match is not None:
        count = (lower if match[1] == b"L" else upper) + int(match[2])
        if count > 0:
            return count
    return max(upper - 1, 1)
