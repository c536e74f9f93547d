"""The entries of an open directory: looked up, or with no more than number and type.

A name that has gone since the listing was made is left out. One whose lookup fails (a metacopy without data,
say) is listed all the same: its LOOKUP returns the error.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import repeat

from unionfs.overlay.access import containing
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, Inode
from unionfs.overlay.listing import FIRST_COOKIE, DirHandle
from unionfs.overlay.namei import lookup
from unionfs.overlay.readdir import DT_DIR, DT_UNKNOWN, cache_of

Entry = tuple[Inode, os.stat_result]
Listed = tuple[bytes, Entry | None, int]
"""Name, entry, and the cookie behind which the next one is."""
New = tuple[bytes, Inode | None, int]
"""Name, inode, cookie."""
Plain = tuple[bytes, int, int, int]
"""Name, number, type (as readdir(3) says it), cookie."""


def prepare(fs: OverlayFs, handle: DirHandle, offset: int, *, numbers: bool = False) -> int:
    """Have the listing at hand, so that nothing below has to wait; returns how many names there are."""
    fs.dirfds.trim()
    listing = handle.ready(fs, rewind=offset == 0, numbers=numbers)
    if handle.directory.merged and fs.layers_static:
        # It may have become so since the listing was made, and lookups need the cache.
        cache_of(fs, handle.directory)
    return len(listing.names)


def _look(fs: OverlayFs, directory: Directory, name: bytes) -> Entry | None:
    """`lookup`, where the mode of a directory of ours keeps us out, too."""
    try:
        return lookup(fs, directory, name)
    except PermissionError:
        if fs.lender is None:
            raise
    child = directory.children.get(name)
    # What has several names is reached by one of them, which may lie in another directory.
    places = [] if child is None else containing(child)
    if directory.upper is not None:
        places.append(directory.upper)
    with fs.lend_all(places, stat.S_IXUSR):
        return lookup(fs, directory, name)


def entries(fs: OverlayFs, handle: DirHandle, offset: int) -> Iterator[Listed]:
    """The entries behind a cookie, each looked up; the entry is None where that fails."""
    directory = handle.directory
    if offset < 1:
        yield b".", (directory, directory.lstat()), 1
    if offset < 2:
        up = directory.parent or directory
        yield b"..", (up, up.lstat()), 2
    for name, cookie in _names(handle, offset):
        try:
            entry = _look(fs, directory, name)
        except OSError:
            yield name, None, cookie
        else:
            if entry is not None:
                yield name, entry, cookie


def new(fs: OverlayFs, handle: DirHandle, offset: int) -> Iterator[New]:
    """The names behind a cookie, each with its inode if the kernel holds that already."""
    directory = handle.directory
    if offset < 1:
        yield b".", directory, 1
    if offset < 2:
        yield b"..", directory.parent or directory, 2
    children = directory.children
    for name, cookie in _names(handle, offset):
        child = children.get(name)
        yield name, child if child is not None and child.nlookup and fs.layers_static else None, cookie


def _names(handle: DirHandle, offset: int) -> Iterator[tuple[bytes, int]]:
    """The names behind a cookie but for "." and "..", each with its own cookie."""
    listing = handle.listing
    assert listing is not None
    cookies = handle.cookies
    places = range(bisect_right(cookies, max(offset, FIRST_COOKIE - 1)), len(cookies))
    return zip(map(listing.names.__getitem__, places), map(cookies.__getitem__, places), strict=True)


def plain(fs: OverlayFs, handle: DirHandle, offset: int) -> Iterator[Plain]:
    """The entries behind a cookie, looked up only where the number is not known otherwise."""
    directory = handle.directory
    if offset < 1:
        yield b".", directory.ino, DT_DIR, 1
    if offset < 2:
        yield b"..", (directory.parent or directory).ino, DT_DIR, 2
    listing = handle.listing
    assert listing is not None
    assert listing.numbers is not None
    cookies = handle.cookies
    places = range(bisect_right(cookies, max(offset, FIRST_COOKIE - 1)), len(cookies))
    children, changed, static = directory.children, handle.changes.names, fs.layers_static
    numbers: Iterable[int] = map(listing.numbers.__getitem__, places)
    if handle.changes.all:
        numbers = repeat(0, len(places))
    in_use = fs.table.in_use()
    for name, number, kind, cookie in zip(
        map(listing.names.__getitem__, places),
        numbers,
        map(listing.kinds.__getitem__, places),
        map(cookies.__getitem__, places),
        strict=True,
    ):
        child = children.get(name)
        if child is not None and static:
            yield name, child.ino, child.mode >> 12, cookie
        # A number that an inode has already may be that of another name of it, or not ours to use.
        elif number and number not in in_use and name not in changed:
            yield name, number, kind, cookie
        else:
            try:
                entry = _look(fs, directory, name)
            except OSError:
                yield name, fs.table.numbers.allocate(), DT_UNKNOWN, cookie
                continue
            if entry is not None:
                inode = entry[0]
                yield name, inode.ino, inode.mode >> 12, cookie
                fs.table.drop_if_unused(inode)
