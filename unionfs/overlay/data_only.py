"""Data-only layers: reached by the absolute redirect of a lower's metacopy, and by no name.

As ovl_lookup_data_layers(): the path is looked for in each of them, in their order, when the data is wanted
for the first time; a lookup or a stat does not ask. Nothing of these layers but the data of regular files is
ever seen, and nothing in them is written.
"""

from __future__ import annotations

import errno
import os
import stat
from weakref import WeakValueDictionary

from unionfs.overlay.layer import Layer, RealDir

Place = tuple[RealDir, bytes]
"""A real directory and a name in it."""


class DataLayers:
    """The data-only layers of a union, top first; at least one."""

    __slots__ = ("_known", "layers")

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        # The directories that files have come from, by layer and path: as long as one of those is known.
        self._known: WeakValueDictionary[tuple[int, bytes], RealDir] = WeakValueDictionary()

    def find(self, path: bytes) -> Place:
        """Where the file of an absolute path lies.

        Raises what the last layer says where none has a regular file there: ENOENT, ENOTDIR, or ELOOP for a
        symlink on the way.
        """
        parent, _, name = path.rpartition(b"/")
        failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        for layer in self.layers:
            try:
                directory = self._directory(layer, parent)
                st = directory.lstat(name)
                if st is not None and stat.S_ISREG(st.st_mode):
                    return directory, name
                failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            except OSError as error:
                failure = error
        raise failure

    def _directory(self, layer: Layer, path: bytes) -> RealDir:
        """The directory of an absolute path in one layer, opened; b"" is the root."""
        known: RealDir | None = None
        names: list[bytes] = []  # below the lowest directory that is known, innermost first
        above = path
        while above and (known := self._known.get((layer.idx, above))) is None:
            above, _, name = above.rpartition(b"/")
            names.append(name)
        directory = layer.root if known is None else known
        directory.open()
        for name in reversed(names):
            directory = _step(directory, name)
            above += b"/" + name
            self._known[layer.idx, above] = directory
        return directory


def _step(parent: RealDir, name: bytes) -> RealDir:
    directory = parent.child(name)
    try:
        directory.open()
    except NotADirectoryError:
        st = parent.lstat(name)
        if st is not None and stat.S_ISLNK(st.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise
    return directory
