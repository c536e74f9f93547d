"""From the real objects of a name to its inode: identity, numbers, and which names are one object.

What a name stands for has been found (`namei.py`); here it becomes the `Inode` that is known already, or a
new one. Nothing here looks a name up or changes a layer.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from unionfs.overlay import index
from unionfs.overlay.access import reachable
from unionfs.overlay.dir_cache import DirCache
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir

_S_IFMT = 0o170000
_S_IFREG = 0o100000


@dataclass(slots=True)
class Hit:
    """One real object found on the way down."""

    directory: RealDir
    name: bytes
    st: os.stat_result
    whiteout_files: bool = False
    no_xattrs: bool = False


@dataclass(slots=True)
class Found:
    """What a name stands for: the object in upper and those in lowers, top first."""

    upper: Hit | None = None
    lowers: list[Hit] = field(default_factory=list)
    upper_metacopy: bool = False
    upper_redirect: bytes | None = None
    upper_opaque: bool = False
    upper_protected: bool = False
    upper_origin: bool | None = None
    """Whether it has an `overlay.origin`, where that is known."""
    data: bytes | None = None
    """The path in the data-only layers at which the last of the lowers, a metacopy, has its data."""


def instantiate(fs: OverlayFs, parent: Directory, name: bytes, found: Found) -> tuple[Inode, os.stat_result]:
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
    lowers = tuple(lower_dirs(found))
    source = found.lowers[0] if found.lowers else top
    assert source is not None
    known = parent.children.get(name)
    if isinstance(known, Directory):
        # Layers changed underneath (`timeout=`): the same inode, looked at afresh.
        if (known.upper is None) != (upper is None):
            known.upper = upper
        known.lowers = lowers
        known.cache = None
        known.prot = -1
        return known
    number = _free(fs, table.numbers.of(source.st.st_dev, source.st.st_ino))
    inode = fs.new_directory(number, source.st.st_mode, upper, lowers)
    inode.no_xattrs = (top or source).no_xattrs and fs.layers_static
    if top is not None:
        inode.mode = top.st.st_mode
        inode.opaque = found.upper_opaque
        if not found.upper_protected:
            inode.prot = 0
        inode.redirect = found.upper_redirect
    table.add(inode)
    table.attach(inode, parent, name)
    return inode


def lower_dirs(found: Found) -> list[RealDir]:
    """The lower directories of a directory that was found, top first."""
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
    has_origin, origin, indexed = (False, None, False) if found.upper_origin is False else _origin(fs, top)
    number = own
    if origin is not None and (indexed or origin.st_nlink == 1):
        # Of a lower with several links its other names are, or their index entry (ovl_hash_bylower()).
        number = table.numbers.of(origin.st_dev, origin.st_ino)
    # Without an origin the number does not lead to a file with several names that has come up, its name may.
    for known in (table.get(number), table.get(own), parent.children.get(name)):
        if isinstance(known, File) and known.on_upper and known.real_ino == st.st_ino:
            if known.updir is None:
                # It was served by descriptor, and has a known name again.
                known.relocate(top.directory, top.name)
            table.attach(known, parent, name)
            return known
    inode = fs.new_file(_free(fs, number, own), st.st_mode)
    inode.no_xattrs = top.no_xattrs and fs.layers_static
    inode.updir, inode.upname = top.directory, top.name
    inode.real_ino = st.st_ino
    inode.redirect = found.upper_redirect
    inode.has_origin = has_origin
    if not found.upper_protected:
        inode.prot = 0
    if found.lowers:
        inode.lowdir, inode.lowname = found.lowers[0].directory, found.lowers[0].name
    _take_data(fs, inode, found, found.upper_metacopy)
    if origin is not None and indexed:
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
        if known.lowdir is not None and (
            fs.index_dir is not None or known.lowdir.layer is top.directory.layer
        ):
            # Another name of a lower file, be it copied up under its first name or not. Without an index it
            # is found again in its own layer only.
            table.attach(known, parent, name)
            _note_lower_name(known, parent, name)
            return known
    inode = fs.new_file(_free(fs, number), st.st_mode)
    inode.no_xattrs = top.no_xattrs and fs.layers_static
    inode.lowdir, inode.lowname = top.directory, top.name
    _take_data(fs, inode, found, len(found.lowers) > 1 or found.data is not None)
    if st.st_nlink > 1 and fs.index_dir is not None:
        index.find(fs, inode, st)
    table.add(inode)
    table.attach(inode, parent, name)
    if st.st_nlink > 1:
        _note_lower_name(inode, parent, name)
    return inode


def plain_file(
    fs: OverlayFs,
    parent: Directory,
    name: bytes,
    directory: RealDir,
    st: os.stat_result,
    names: list[str] | None,
) -> tuple[Inode, os.stat_result]:
    """The inode of a non-directory that one real object is all of; *names*: of its attributes, if known.

    What most lookups end in, so it takes the short way where there is one.
    """
    fmt = fs.format
    no_xattrs = names is not None and fmt.xattrs.shows_none(names)
    if directory.layer.idx < 0 or st.st_nlink > 1:
        hit = Hit(directory, name, st, no_xattrs=no_xattrs)
        if directory.layer.idx < 0:
            found = Found(hit)
            if names is not None:
                found.upper_protected = fmt.protattr in names
                found.upper_origin = fmt.origin in names
        else:
            found = Found(lowers=[hit])
        return instantiate(fs, parent, name, found)
    table = fs.table
    number = table.numbers.of(st.st_dev, st.st_ino)
    inode = fs.new_file(number if table.get(number) is None else table.numbers.allocate(), st.st_mode)
    inode.no_xattrs = no_xattrs
    inode.lowdir = directory
    inode.lowname = name
    table.add(inode)
    table.attach(inode, parent, name)
    return inode, st


def _note_lower_name(inode: File, parent: Directory, name: bytes) -> None:
    if inode.lower_names is None:
        inode.lower_names = set()
    inode.lower_names.add((parent, name))


def _free(fs: OverlayFs, *numbers: int) -> int:
    """The first of these numbers that no inode has, else a new one: two objects never share a number."""
    for number in numbers:
        if fs.table.get(number) is None:
            return number
    return fs.table.numbers.allocate()


def _take_data(fs: OverlayFs, inode: File, found: Found, metacopy: bool) -> None:
    inode.metacopy = metacopy
    if metacopy and found.data is not None:
        inode.datadir, inode.dataname = fs.data, found.data
    elif metacopy:
        last = found.lowers[-1]
        inode.datadir, inode.dataname = last.directory, last.name


def _origin(fs: OverlayFs, hit: Hit) -> tuple[bool, os.stat_result | None, bool]:
    """Whether an upper file has an `overlay.origin`, the lower object that it names if that is found, and
    whether the file is that one's index entry."""
    with reachable(fs, hit.directory, hit.name, is_dir=False) as changed:
        value = fs.format.read_at(hit.directory, hit.name, fs.format.origin)
    if changed:
        hit.st = hit.directory.lstat(hit.name) or hit.st
    origin = fs.format.decode_origin(value) if value else None
    st = fs.stat_origin(origin) if origin is not None else None
    if st is None or st.st_mode & _S_IFMT != hit.st.st_mode & _S_IFMT:
        return value is not None, None, False
    return True, st, value is not None and index.has(fs, value, hit.st)


def adopt_new(
    fs: OverlayFs, parent: Directory, name: bytes, place: RealDir, *, opaque: bool, fd: int | None = None
) -> tuple[Inode, os.stat_result]:
    """The inode of an object that was just made in upper: nothing of it can lie below.

    *fd* is open on it, if there is one.
    """
    st = place.fstat(fd) if fd is not None else place.lstat(name)
    if st is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    table = fs.table
    number = _free(fs, table.numbers.of(st.st_dev, st.st_ino))
    inode: Inode
    if stat.S_ISDIR(st.st_mode):
        inode = fs.new_directory(number, st.st_mode, place.child(name), ())
        inode.opaque = opaque
        if fs.layers_static:
            inode.cache = DirCache()
    else:
        inode = fs.new_file(number, st.st_mode)
        inode.updir, inode.upname = place, name
        inode.real_ino = st.st_ino
    inode.prot = 0
    table.add(inode)
    table.attach(inode, parent, name)
    return inode, st


def adopt_nameless(fs: OverlayFs, fd: int) -> tuple[File, os.stat_result]:
    """The inode of a file that was just made in upper without a name; the handle of *fd* lends it."""
    assert fs.upper is not None
    st = fs.upper.root.fstat(fd)
    table = fs.table
    inode = fs.new_file(_free(fs, table.numbers.of(st.st_dev, st.st_ino)), st.st_mode)
    inode.fd = fd
    inode.lent = True
    inode.real_ino = st.st_ino
    inode.prot = 0
    table.add(inode)
    return inode, st
