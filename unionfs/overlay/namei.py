"""From a name to an inode: top-down through the layers that the parent merges, as ovl_lookup() does.

A whiteout, an opaque directory or a non-directory ends the search; a redirect changes the name that is looked
for below; a metacopy goes on until its data is found. Nothing here changes a layer.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from unionfs.overlay.access import reachable
from unionfs.overlay.dir_cache import ALONE, HIDDEN, PRESENT
from unionfs.overlay.format import OPAQUE_FILE, WHITEOUT_PREFIX
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.iget import Found, Hit, instantiate, plain_file
from unionfs.overlay.inode import Directory, Inode
from unionfs.overlay.layer import NAME_MAX, RealDir, is_mark_file, is_whiteout_device
from unionfs.overlay.readdir import cache_of

_S_IFMT = 0o170000
_S_IFDIR = 0o040000
_S_IFREG = 0o100000


@dataclass(slots=True)
class _Walk:
    """The state of one search (the kernel's `struct ovl_lookup_data`)."""

    name: bytes
    is_dir: bool = False
    stop: bool = False
    opaque: bool = False
    metacopy: bool = False
    protected: bool = False
    absolute: bool = False
    """The last object that was found has an absolute redirect: it may lead to data-only layers."""
    redirect: bytes | None = None
    found_redirect: bytes | None = None
    st: os.stat_result | None = None
    """Of the first object that will be looked at, if that is known already."""


def find(fs: OverlayFs, parent: Directory, name: bytes) -> Inode | None:
    """The inode of a name, or None where the name is not there; errors as for `lookup`."""
    if fs.layers_static:
        child = parent.children.get(name)
        if child is not None:
            return child
    entry = lookup(fs, parent, name)
    return None if entry is None else entry[0]


def lookup(fs: OverlayFs, parent: Directory, name: bytes) -> tuple[Inode, os.stat_result] | None:
    """The inode of a name and its real stat, or None where the name is not there.

    Raises OSError: ENAMETOOLONG, EIO for a metacopy without data, EPERM for a redirect that may not be
    followed, and whatever the layers answer; `Wait` where a huge directory must be listed first.
    """
    if fs.layers_static:
        child = parent.children.get(name)
        if child is not None:
            return child, child.lstat()
        if name[:4] != WHITEOUT_PREFIX and len(name) <= NAME_MAX:
            return _lookup_top(fs, parent, name)
    found = resolve(fs, parent, name)
    if found is None:
        if not fs.layers_static:
            gone = parent.children.get(name)
            if gone is not None:
                fs.table.detach(gone, parent, name)
        return None
    return instantiate(fs, parent, name, found)


def _lookup_top(fs: OverlayFs, parent: Directory, name: bytes) -> tuple[Inode, os.stat_result] | None:
    """A name that is no mark, where layers do not change underneath.

    Only a directory or a metacopy can have more to it than the object in the top layer, or a file with marks
    that an ordinary user's daemon may not reach: these go the long way.
    """
    cache = parent.cache
    if cache is None and parent.merged:
        cache = cache_of(fs, parent)
    base = parent.upper
    if cache is not None:
        there = cache.upper.get(name)
        if there is HIDDEN:
            return None
        if there is None:
            places = cache.lower.get(name)
            if places is None or places[0] < 0:
                return None
            base = parent.lowers[places[0]]
    if base is None:
        base = parent.lowers[0]
    st = base.lstat(name)
    if st is None:
        return None
    kind = st.st_mode & _S_IFMT
    if kind == _S_IFREG:
        if fs.identity.privileged or not base.layer.is_upper:
            fmt = fs.format
            names = fmt.names(base, name)
            if not names or (fmt.metacopy not in names and fmt.whiteouts.isdisjoint(names)):
                return plain_file(fs, parent, name, base, st, names)
    elif kind != _S_IFDIR:
        if is_whiteout_device(st):
            return None
        return plain_file(fs, parent, name, base, st, None)
    found = resolve(fs, parent, name, st)
    return None if found is None else instantiate(fs, parent, name, found)


def resolve(fs: OverlayFs, parent: Directory, name: bytes, st: os.stat_result | None = None) -> Found | None:
    """Find the real objects of a name, without making an inode; *st* is the topmost one's, if known."""
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if name.startswith(WHITEOUT_PREFIX) and _is_mark(parent, name):
        return None
    walk = _Walk(name, st=st)
    found = Found()
    merged = parent.merged
    names = cache_of(fs, parent) if merged and fs.layers_static else parent.cache

    if parent.upper is not None:
        there = PRESENT if names is None else names.upper.get(name)
        if there is HIDDEN:
            return None
        if there:
            found.upper = hit = _single(fs, parent.upper, walk, name, last=True, bottom=False)
            if walk.found_redirect is not None:
                walk.name = walk.redirect = walk.found_redirect
            if there is ALONE:
                walk.stop = True
            if hit is not None:
                found.upper_metacopy = walk.metacopy
                found.upper_redirect = walk.redirect
                found.upper_opaque = walk.opaque
                found.upper_protected = walk.protected
        if names is None and merged and not walk.stop and _has_wh_file(parent.upper, name):
            if found.upper is None:
                return None
            walk.stop = True

    if not walk.stop:
        _search_lowers(fs, parent, found, walk)

    if found.upper is None and not found.lowers:
        return None
    if walk.metacopy and walk.absolute and fs.data is not None and found.lowers:
        found.data = walk.redirect
    elif walk.metacopy or (found.upper_metacopy and not found.lowers):
        raise OSError(errno.EIO, "metacopy with no lower data")
    return found


def _search_lowers(fs: OverlayFs, parent: Directory, found: Found, walk: _Walk) -> None:
    stack = found.lowers
    roots = fs.root.lowers
    lowers = parent.lowers
    names = parent.cache
    if walk.redirect is not None and walk.redirect.startswith(b"/"):
        lowers, names = roots, None
    follow = fs.config.redirect_follow
    bottom_index = len(fs.lowers) - 1
    to_data = (
        fs.data is not None
        and not (found.upper_metacopy and fs.config.userxattr)
        and (follow or walk.redirect is None)
    )
    at = 0
    while at < len(lowers) and not walk.stop:
        name = walk.name
        if names is not None:
            place = _next_place(names.lower.get(name), at)
            if place is None:
                return
            at = place
        base = lowers[at]
        bottom = base.layer.idx == bottom_index if follow else at == len(lowers) - 1
        if name.startswith(b"/"):
            hit = _walk_path(fs, base, walk, bottom=bottom)
        else:
            hit = _single(fs, base, walk, name, last=True, bottom=bottom)
            if walk.found_redirect is not None:
                walk.name = walk.redirect = walk.found_redirect
            if names is not None:
                hidden = ~at in names.lower[name]
            else:
                hidden = at < len(lowers) - 1 and _has_wh_file(base, name)
            if hidden:
                walk.stop = True
        if hit is not None:
            own = walk.found_redirect
            walk.absolute = own is not None and own.startswith(b"/")
            if not (walk.metacopy and stack):  # one in between has neither the attributes nor the data
                stack.append(hit)
            # From a file of the last lower to data-only layers is the one redirect that is always followed
            # (ovl_check_follow_redirect()): nothing else could be meant by giving them.
            if to_data and walk.metacopy and walk.absolute and base.layer.idx == bottom_index:
                return
            if (found.upper_metacopy or walk.metacopy) and fs.config.userxattr:
                raise OSError(errno.EPERM, "refusing to follow a metacopy")
            if walk.redirect is not None and not follow:
                raise OSError(errno.EPERM, "refusing to follow a redirect")
            if walk.redirect is not None and walk.redirect.startswith(b"/"):
                lowers, names = roots, None
                at = base.layer.idx
        at += 1


def _next_place(places: tuple[int, ...] | None, start: int) -> int | None:
    """The first lower, at *start* or below, that has the name before a whiteout hides it."""
    for place in places or ():
        if place < 0:
            if ~place >= start:
                return None
        elif place >= start:
            return place
    return None


def _has_wh_file(directory: RealDir, name: bytes) -> bool:
    return directory.layer.may_have_wh_files and is_mark_file(directory.lstat(WHITEOUT_PREFIX + name))


def _is_mark(parent: Directory, name: bytes) -> bool:
    """Whether a name beginning with `.wh.` is a mark; only regular files are, and AUFS's own `.wh..wh.*`."""
    return name.startswith(WHITEOUT_PREFIX * 2) or not any(
        (st := real.lstat(name)) is not None and not is_mark_file(st) for real in parent.real_dirs()
    )


def _single(
    fs: OverlayFs, base: RealDir, walk: _Walk, name: bytes, *, last: bool, bottom: bool
) -> Hit | None:
    """Look one name up in one real directory (ovl_lookup_single()).

    *last* says that it is the last component of what is looked for, *bottom* that no layer is below. A
    redirect is left in `walk.found_redirect`; the caller knows what it changes.
    """
    walk.found_redirect = None
    st, walk.st = walk.st or base.lstat(name), None
    if st is None:
        return None
    fmt = fs.format
    kind = st.st_mode & _S_IFMT
    if is_whiteout_device(st) or (st.st_size == 0 and fmt.is_whiteout_file(base, name, st)):
        walk.stop = walk.opaque = True
        return None
    if last and walk.metacopy and kind != _S_IFREG:
        walk.stop = True
        return None
    if kind != _S_IFDIR:
        if walk.is_dir or not last:
            walk.stop = True
            return None
        walk.metacopy = False
        hit = Hit(base, name, st)
        if kind == _S_IFREG:
            with reachable(fs, base, name, is_dir=False) as changed:
                marks = fmt.names(base, name)
                if marks is not None:
                    hit.no_xattrs = fmt.xattrs.shows_none(marks)
                    walk.protected = fmt.protattr in marks
                    walk.metacopy = fmt.metacopy in marks
                    if walk.metacopy and fmt.redirect in marks and not (bottom and fs.data is None):
                        walk.found_redirect = fmt.read_redirect(base.proc_path(name))
            if changed:
                hit.st = base.lstat(name) or st
        walk.stop = not walk.metacopy
        return hit
    if last:
        walk.is_dir = True
    hit = Hit(base, name, st)
    if not bottom:
        opaque = False
        with reachable(fs, base, name, is_dir=True) as changed:
            marks = fmt.names(base, name)
            if marks is not None:
                hit.no_xattrs = fmt.xattrs.shows_none(marks)
                walk.protected = fmt.protattr in marks
                if marks and not fmt.opaques.isdisjoint(marks):
                    value = fmt.says_opaque(base, name, marks)
                    opaque = value == b"y"
                    hit.whiteout_files = value == b"x" and not base.layer.is_upper
                if not opaque and fmt.redirect in marks:
                    walk.found_redirect = redirect = fmt.read_redirect(base.proc_path(name))
                    if redirect.startswith(b"/"):
                        # Whatever a directory on the way hides, this leads elsewhere (ovl_check_redirect()).
                        walk.stop = False
            opaque = opaque or _has_opaque_file(base, name)
        if changed:
            hit.st = base.lstat(name) or st
        walk.stop = walk.stop or opaque
        walk.opaque = last and opaque
    return hit


def _has_opaque_file(base: RealDir, name: bytes) -> bool:
    """Whether the directory *name* holds `.wh..wh..opq`."""
    try:
        # It was a directory a moment ago; were it a symlink by now, this could only answer yes or no.
        st = os.stat(name + b"/" + OPAQUE_FILE, dir_fd=base.open(), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return stat.S_ISREG(st.st_mode)


def _walk_path(fs: OverlayFs, root: RealDir, walk: _Walk, *, bottom: bool) -> Hit | None:
    """Look an absolute path up in one layer, component by component (ovl_lookup_layer()).

    A redirect on the way replaces the path up to where it stands, for the layers below.
    """
    before = b""
    rest = walk.name[1:]
    directory = root
    while True:
        component, slash, rest = rest.partition(b"/")
        last = not slash
        hit = _single(fs, directory, walk, component, last=last, bottom=bottom)
        redirect = walk.found_redirect
        if redirect is None:
            before += b"/" + component
        else:
            before = redirect if redirect.startswith(b"/") else before + b"/" + redirect
            walk.name = walk.redirect = before if last else before + b"/" + rest
        if hit is None or last:
            return hit
        directory = hit.directory.child(hit.name)


def lower_has(fs: OverlayFs, parent: Directory, name: bytes) -> bool:
    """Whether a lower would show this name if upper had nothing at it (ovl_lower_positive())."""
    lowers = parent.lowers
    if not lowers:
        return False
    if parent.merged and fs.layers_static:
        places = cache_of(fs, parent).lower.get(name)
        return places is not None and places[0] >= 0
    for real in lowers:
        st = real.lstat(name)
        if st is not None:
            return not is_whiteout_device(st) and not fs.format.is_whiteout_file(real, name, st)
        if _has_wh_file(real, name):
            return False
    return False
