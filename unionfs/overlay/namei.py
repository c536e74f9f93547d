"""From a name to an inode: top-down through the layers that the parent merges, as ovl_lookup() does.

A whiteout, an opaque directory or a non-directory ends the search; a redirect changes the name that is looked
for below; a metacopy goes on until its data is found. Nothing here changes a layer.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from unionfs.overlay import index
from unionfs.overlay.access import OwnerAccess
from unionfs.overlay.format import OPAQUE_FILE, WHITEOUT_PREFIX
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir, is_mark_file, is_whiteout_device
from unionfs.overlay.readdir import ALONE, HIDDEN, PRESENT, index_of

_S_IFMT = 0o170000
_S_IFDIR = 0o040000
_S_IFREG = 0o100000


@dataclass(slots=True)
class _Hit:
    """One real object found on the way down."""

    directory: RealDir
    name: bytes
    st: os.stat_result
    whiteout_files: bool = False


@dataclass(slots=True)
class _Walk:
    """The state of one search (the kernel's `struct ovl_lookup_data`)."""

    name: bytes
    is_dir: bool = False
    stop: bool = False
    opaque: bool = False
    metacopy: bool = False
    redirect: bytes | None = None
    found_redirect: bytes | None = None


@dataclass(slots=True)
class Found:
    """What a name stands for: the object in upper and those in lowers, top first."""

    walk: _Walk
    upper: _Hit | None = None
    lowers: list[_Hit] = field(default_factory=list)
    upper_metacopy: bool = False
    upper_marks: frozenset[str] = frozenset()
    upper_redirect: bytes | None = None
    upper_opaque: bool = False


def lookup(fs: OverlayFs, parent: Directory, name: bytes) -> tuple[Inode, os.stat_result] | None:
    """The inode of a name and its real stat, or None where the name is not there.

    Raises OSError: ENAMETOOLONG, EIO for a metacopy without data, EPERM for a redirect that may not be
    followed, and whatever the layers answer; `Wait` where a huge directory must be listed first.
    """
    if fs.trust:
        child = parent.children.get(name)
        if child is not None:
            return child, child.lstat()
    found = resolve(fs, parent, name)
    if found is None:
        if not fs.trust:
            gone = parent.children.get(name)
            if gone is not None:
                fs.table.detach(gone, parent, name)
        return None
    return _instantiate(fs, parent, name, found)


def resolve(fs: OverlayFs, parent: Directory, name: bytes) -> Found | None:
    """Find the real objects of a name, without making an inode."""
    if len(name) > 255:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if name.startswith(WHITEOUT_PREFIX) and _is_mark(parent, name):
        return None
    walk = _Walk(name)
    found = Found(walk)
    merged = parent.merged
    names = index_of(fs, parent) if merged and fs.trust else None

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
        if names is None and merged and not walk.stop and _has_wh_file(parent.upper, name):
            if found.upper is None:
                return None
            walk.stop = True

    if not walk.stop:
        _search_lowers(fs, parent, found)

    if found.upper is None and not found.lowers:
        return None
    if walk.metacopy or (found.upper_metacopy and not found.lowers):
        raise OSError(errno.EIO, "metacopy with no lower data")
    return found


def _search_lowers(fs: OverlayFs, parent: Directory, found: Found) -> None:
    walk = found.walk
    stack = found.lowers
    roots = fs.root.lowers
    lowers = parent.lowers
    names = parent.index if parent.merged and fs.trust else None
    if walk.redirect is not None and walk.redirect.startswith(b"/"):
        lowers, names = roots, None
    follow = fs.config.redirect_follow
    bottom_index = len(fs.lowers) - 1
    at = 0
    while at < len(lowers) and not walk.stop:
        name = walk.name
        if names is not None:
            place = _next_place(names.lower.get(name), at)
            if place is None:
                return
            at = place
        base = lowers[at]
        bottom = base.layer.index == bottom_index if follow else at == len(lowers) - 1
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
            if (found.upper_metacopy or walk.metacopy) and fs.config.userxattr:
                raise OSError(errno.EPERM, "refusing to follow a metacopy")
            if not (walk.metacopy and stack):  # one in between has neither the attributes nor the data
                stack.append(hit)
            if walk.redirect is not None and not follow:
                raise OSError(errno.EPERM, "refusing to follow a redirect")
            if walk.redirect is not None and walk.redirect.startswith(b"/"):
                lowers, names = roots, None
                at = base.layer.index
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
    return is_mark_file(directory.lstat(WHITEOUT_PREFIX + name))


def _is_mark(parent: Directory, name: bytes) -> bool:
    """Whether a name beginning with `.wh.` is a mark; only regular files are, and AUFS's own `.wh..wh.*`."""
    return name.startswith(WHITEOUT_PREFIX * 2) or not any(
        (st := real.lstat(name)) is not None and not is_mark_file(st) for real in parent.real_dirs()
    )


def _single(
    fs: OverlayFs, base: RealDir, walk: _Walk, name: bytes, *, last: bool, bottom: bool
) -> _Hit | None:
    """Look one name up in one real directory (ovl_lookup_single()).

    *last* says that it is the last component of what is looked for, *bottom* that no layer is below. A
    redirect is left in `walk.found_redirect`; the caller knows what it changes.
    """
    walk.found_redirect = None
    st = base.lstat(name)
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
        if kind == _S_IFREG:
            path = base.proc_path(name)
            with _reachable(fs, base, path):
                marks = fmt.marks(path)
                walk.metacopy = fmt.metacopy in marks
                if walk.metacopy and not bottom and fmt.redirect in marks:
                    walk.found_redirect = fmt.read_redirect(path)
        walk.stop = not walk.metacopy
        return _Hit(base, name, st)
    if last:
        walk.is_dir = True
    hit = _Hit(base, name, st)
    if not bottom:
        path = base.proc_path(name)
        with _reachable(fs, base, path):
            marks = fmt.marks(path)
            if fmt.opaque in marks:
                value = fmt.read(path, fmt.opaque)
                walk.stop = value == b"y"
                hit.whiteout_files = value == b"x" and not base.layer.is_upper
            if not walk.stop and fmt.redirect in marks:
                walk.found_redirect = fmt.read_redirect(path)
            if _has_opaque_file(base, name):
                walk.stop = True
        walk.opaque = last and walk.stop
    return hit


def _reachable(fs: OverlayFs, base: RealDir, path: bytes) -> AbstractContextManager[None]:
    """An ordinary user's own objects in upper may have a mode that hides their marks from their daemon."""
    if fs.identity.privileged or not base.layer.is_upper:
        return nullcontext()
    return OwnerAccess(fs, path)


def _has_opaque_file(base: RealDir, name: bytes) -> bool:
    """Whether the directory *name* holds `.wh..wh..opq`."""
    try:
        # It was a directory a moment ago; were it a symlink by now, this could only answer yes or no.
        st = os.stat(name + b"/" + OPAQUE_FILE, dir_fd=base.open(), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return stat.S_ISREG(st.st_mode)


def _walk_path(fs: OverlayFs, root: RealDir, walk: _Walk, *, bottom: bool) -> _Hit | None:
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
    if parent.merged and fs.trust:
        places = index_of(fs, parent).lower.get(name)
        return places is not None and places[0] >= 0
    for real in lowers:
        st = real.lstat(name)
        if st is not None:
            return not is_whiteout_device(st) and not fs.format.is_whiteout_file(real, name, st)
        if _has_wh_file(real, name):
            return False
    return False


def adopt_new(
    fs: OverlayFs, parent: Directory, name: bytes, place: RealDir, *, opaque: bool
) -> tuple[Inode, os.stat_result]:
    """The inode of an object that was just made in upper: nothing of it can lie below."""
    st = os.stat(name, dir_fd=place.open(), follow_symlinks=False)
    table = fs.table
    number = _free(fs, table.numbers.of(st.st_dev, st.st_ino))
    inode: Inode
    if stat.S_ISDIR(st.st_mode):
        inode = Directory(number, st.st_mode, place.child(name), ())
        inode.opaque = opaque
    else:
        inode = File(number, st.st_mode)
        inode.updir, inode.upname = place, name
        inode.real_ino = st.st_ino
    table.add(inode)
    table.attach(inode, parent, name)
    return inode, st


# --- from real objects to an inode -----------------------------------------------------------------


def _instantiate(fs: OverlayFs, parent: Directory, name: bytes, found: Found) -> tuple[Inode, os.stat_result]:
    top = found.upper if found.upper is not None else found.lowers[0]
    if stat.S_ISDIR(top.st.st_mode):
        return _directory(fs, parent, name, found), top.st
    inode = _file(fs, parent, name, found)
    if inode.on_upper and found.upper is None:
        # A lower name of a file that was copied up under another one.
        return inode, inode.lstat()
    return inode, top.st


def _directory(fs: OverlayFs, parent: Directory, name: bytes, found: Found) -> Directory:
    table = fs.table
    upper: RealDir | None = None
    top = found.upper
    if top is not None:
        upper = top.directory.child(top.name)
    lowers = tuple(_lower_dirs(found))
    source = found.lowers[0] if found.lowers else top
    assert source is not None
    known = parent.children.get(name)
    if isinstance(known, Directory):
        # Layers changed underneath (`timeout=`): the same inode, looked at afresh.
        if (known.upper is None) != (upper is None):
            known.upper = upper
        known.lowers = lowers
        known.index = None
        return known
    number = _free(fs, table.numbers.of(source.st.st_dev, source.st.st_ino))
    inode = Directory(number, source.st.st_mode, upper, lowers)
    if top is not None:
        inode.mode = top.st.st_mode
        inode.opaque = found.upper_opaque
        inode.redirect = found.upper_redirect
    table.add(inode)
    table.attach(inode, parent, name)
    return inode


def _lower_dirs(found: Found) -> list[RealDir]:
    dirs = []
    for hit in found.lowers:
        real = hit.directory.child(hit.name)
        real.whiteout_files = hit.whiteout_files
        dirs.append(real)
    return dirs


def _file(fs: OverlayFs, parent: Directory, name: bytes, found: Found) -> File:
    table = fs.table
    top = found.upper
    if top is None:
        return _lower_file(fs, parent, name, found)
    st = top.st
    own = table.numbers.of(st.st_dev, st.st_ino)
    has_origin, origin = _origin(fs, top)
    number = own if origin is None else table.numbers.of(origin.st_dev, origin.st_ino)
    for candidate in (number, own):
        known = table.get(candidate)
        if isinstance(known, File) and known.on_upper and known.real_ino == st.st_ino:
            if known.updir is None:
                # It was served by descriptor, and has a known name again.
                known.updir, known.upname = top.directory, top.name
                os.close(known.fd)
                known.fd = -1
            table.attach(known, parent, name)
            return known
    inode = File(_free(fs, number, own), st.st_mode)
    inode.updir, inode.upname = top.directory, top.name
    inode.real_ino = st.st_ino
    inode.redirect = found.upper_redirect
    inode.has_origin = has_origin
    if found.lowers:
        inode.lowdir, inode.lowname = found.lowers[0].directory, found.lowers[0].name
    _take_data(inode, found.lowers, found.upper_metacopy)
    if origin is not None and fs.index_dir is not None:
        index.adopt(fs, inode, st, origin)
    table.add(inode)
    table.attach(inode, parent, name)
    return inode


def _lower_file(fs: OverlayFs, parent: Directory, name: bytes, found: Found) -> File:
    table = fs.table
    top = found.lowers[0]
    st = top.st
    number = table.numbers.of(st.st_dev, st.st_ino)
    known = table.get(number)
    if isinstance(known, File) and parent.children.get(name) is known:
        return known  # layers may change underneath (`timeout=`): looked at again, the same
    if st.st_nlink > 1 and isinstance(known, File):
        if known.lowdir is None and known.indexed:
            known.lowdir, known.lowname = top.directory, top.name
        if known.lowdir is not None and known.lowdir.layer is top.directory.layer:
            # Another name of a lower file, be it copied up under its first name or not.
            table.attach(known, parent, name)
            return known
    inode = File(_free(fs, number), st.st_mode)
    inode.lowdir, inode.lowname = top.directory, top.name
    _take_data(inode, found.lowers, len(found.lowers) > 1)
    if st.st_nlink > 1 and fs.index_dir is not None:
        index.find(fs, inode, st)
    table.add(inode)
    table.attach(inode, parent, name)
    return inode


def _free(fs: OverlayFs, *numbers: int) -> int:
    """The first of these numbers that no inode has, else a new one: two objects never share a number."""
    for number in numbers:
        if fs.table.get(number) is None:
            return number
    return fs.table.numbers.allocate()


def _take_data(inode: File, lowers: list[_Hit], metacopy: bool) -> None:
    inode.metacopy = metacopy
    if metacopy:
        inode.datadir, inode.dataname = lowers[-1].directory, lowers[-1].name


def _origin(fs: OverlayFs, hit: _Hit) -> tuple[bool, os.stat_result | None]:
    """Whether an upper file has an `overlay.origin`, and the lower object that it names if that is found."""
    path = hit.directory.proc_path(hit.name)
    with _reachable(fs, hit.directory, path):
        value = fs.format.read(path, fs.format.origin)
    origin = fs.format.decode_origin(value) if value else None
    st = fs.stat_origin(origin) if origin is not None else None
    if st is None or st.st_mode & _S_IFMT != hit.st.st_mode & _S_IFMT:
        return value is not None, None
    return True, st
