"""Redirects: writing where the lower part of a renamed directory, or the data of a metacopy, is found."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from unionfs.overlay.access import set_mark
from unionfs.overlay.format import REDIRECT_MAX
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode


def set_redirect(
    fs: OverlayFs, inode: Inode, *, absolute: bool, at: tuple[Directory, bytes] | None = None
) -> None:
    """Store on the upper object the name under which its lower part lies (ovl_set_redirect()).

    To be called before the rename, while the names still are the lower's. A redirect that is there already
    stays, unless it is relative and the object leaves its directory. *at* is the name that the caller has
    used: EXDEV where its path would be too long. A request for a link does not say which it is, so any name
    of the file will do.
    """
    assert isinstance(inode, (Directory, File))
    known = inode.redirect
    if known is not None and (known.startswith(b"/") or not absolute):
        return
    if absolute:
        value = _path_below(inode, at)
    else:
        value = inode.name if at is None else at[1]
    path, follow = inode.proc_path()
    set_mark(fs, path, fs.format.redirect, value, follow=follow)
    inode.redirect = value


def _path_below(inode: Directory | File, at: tuple[Directory, bytes] | None) -> bytes:
    """The absolute path at which the layers below have the object, redirects of its parents followed."""
    names: Iterable[tuple[Inode | None, bytes]]
    if at is None and inode.redirect is None and isinstance(inode, File):
        names = inode.names()
    else:
        parent, name = (inode.parent, inode.name) if at is None else at
        names = ((parent, name if inode.redirect is None else inode.redirect),)
    for parent, name in names:
        path = _path_of(parent, name)
        if len(path) <= REDIRECT_MAX:
            return path
    raise OSError(errno.EXDEV, "the path is too long for a redirect")


def _path_of(parent: Inode | None, name: bytes) -> bytes:
    parts = [name]
    at = parent
    while at is not None and at.parent is not None:
        assert isinstance(at, Directory)
        part = at.redirect if at.redirect is not None else at.name
        parts.append(part)
        if part.startswith(b"/"):
            break
        at = at.parent
    parts.reverse()
    path = b"/".join(parts)
    return path if path.startswith(b"/") else b"/" + path
