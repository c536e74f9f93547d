"""A read-only view of the layers of a union, through the union's own lookup.

Nothing is written, locked or cleaned up: the union may be mounted. No inode is made; `lookup` returns the
real objects of a name, in the union and in its lowers alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence

from unionfs.overlay.config import OwnersConfig, UnionConfig
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.iget import Found, Hit, lower_dirs
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import Layer, RealDir
from unionfs.overlay.namei import resolve
from unionfs.overlay.open_fs import Use, open_fs
from unionfs.overlay.readdir import Sources

_MAX_DIR_FDS = 4096

OVERRIDE_STAT = OwnersConfig(xattr_permissions=2)
"""Owners and modes of `override_stat` attributes, which layers of users without subordinate ids have."""

Place = tuple[int, int, int]
"""A real object: the layer's index, st_dev and st_ino."""


class LayerView:
    """Upper and lowers, open for as long as `open_view` lasts. `upper` is None where there are lowers alone.

    `union` is the root as the union shows it, `below` as the lowers alone would.
    """

    __slots__ = ("below", "fs", "union", "upper")

    def __init__(self, fs: OverlayFs, upper: Layer | None) -> None:
        self.fs = fs
        self.upper = upper
        self.union = fs.root
        self.below = Directory(0, fs.root.mode, None, fs.root.lowers)

    def lookup(self, directory: Directory | None, name: bytes) -> Found | None:
        """The real objects of a name in a directory of either view, None where there is no such name.

        Raises OSError as a lookup in the mounted union would: EIO for a metacopy without data, say.
        """
        self.fs.dirfds.trim()
        return None if directory is None else resolve(self.fs, directory, name)

    def names(self, directory: Directory) -> list[bytes]:
        """The names in a directory of either view, in no order."""
        sources = Sources(self.fs, directory)
        try:
            return sources.cache(sources.scan()).names()
        finally:
            sources.close()


@contextlib.contextmanager
def open_view(
    upper: str | None,
    lowers: Sequence[str],
    data_lowers: Sequence[str] = (),
    *,
    userxattr: bool,
    unpacked: Collection[str] = (),
) -> Iterator[LayerView]:
    """Open the layers (lowers top first), one at least; symlinks in their paths are followed, now.

    *unpacked* are those of the lowers that a store has unpacked, in which no name begins with `.wh.`. Raises
    MountError where one cannot be opened.
    """
    config = UnionConfig(
        tuple(map(os.path.realpath, lowers)),
        upper=None if upper is None else os.path.realpath(upper),
        data_lowers=tuple(map(os.path.realpath, data_lowers)),
        # Whatever the mount follows: the objects exist.
        redirect_dir="follow",
        userxattr=userxattr,
        volatile=True,
        # Look each name up in the layers. A directory cache would have to list all its siblings.
        timeout=0.0,
        owners=OVERRIDE_STAT,
    )
    fs = open_fs(config, Use.LOOK, most_dir_fds=_MAX_DIR_FDS)
    try:
        for layer, path in zip(fs.lowers, lowers, strict=True):
            layer.may_have_wh_files = path not in unpacked
        yield LayerView(fs, fs.upper)
    finally:
        fs.close()


def top(found: Found) -> Hit:
    """The real object whose attributes are shown."""
    return found.upper if found.upper is not None else found.lowers[0]


def root_hit(real: RealDir) -> Hit:
    """A layer's root as a real object with a name."""
    st = real.lstat(b".")
    assert st is not None
    return Hit(real, b".", st)


def places(hits: Sequence[Hit]) -> tuple[Place, ...]:
    """Which real objects these are."""
    return tuple((hit.directory.layer.idx, hit.st.st_dev, hit.st.st_ino) for hit in hits)


def directory_of(found: Found) -> Directory:
    """A directory that was found, for lookups in it."""
    real = found.upper
    upper = None if real is None else real.directory.child(real.name)
    return Directory(0, top(found).st.st_mode, upper, tuple(lower_dirs(found)))
