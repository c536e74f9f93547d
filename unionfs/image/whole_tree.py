"""All that a union shows as one tar stream, in the order and form of layers. Changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from unionfs.errors import ImageError
from unionfs.image.tar_write import TarWriter
from unionfs.image.tree_entries import EntryWriter, Remark, cannot_be_in_a_layer
from unionfs.offline.layer_view import LayerView, directory_of, root_hit, top
from unionfs.overlay.iget import Found
from unionfs.overlay.inode import Directory


def write(
    view: LayerView, sink: Callable[[bytes], object], remark: Remark, latest: int | None = None
) -> None:
    """Write a whole archive: the root, then all names sorted, a directory followed by what is in it.

    *remark* is called with what is left out; *latest* as for `EntryWriter`. Raises ImageError for what cannot
    be read.
    """
    archive = TarWriter(sink)
    writer = EntryWriter(view.fs, archive, remark, latest)
    layer = view.fs.lowers[0] if view.upper is None else view.upper
    writer.add(b"", Found(root_hit(layer.root)))
    todo: list[_Listing] = [_Listing(view, b"", view.union)]
    while todo:
        if not todo[-1].names:
            todo.pop()
            continue
        path, found = todo[-1].next()
        if found is None:
            continue  # it went meanwhile
        mode = top(found).st.st_mode
        why = cannot_be_in_a_layer(path, mode)
        if why is not None:
            remark(path, why)
        elif writer.add(path, found) and stat.S_ISDIR(mode):
            todo.append(_Listing(view, path + b"/", directory_of(found)))
    archive.close()


class _Listing:
    """A directory whose names are still to be written, the last one first."""

    __slots__ = ("_directory", "_path", "_view", "names")

    def __init__(self, view: LayerView, path: bytes, directory: Directory) -> None:
        self._view = view
        self._path = path
        self._directory = directory
        try:
            self.names = sorted(view.names(directory), reverse=True)
        except OSError as error:
            raise _cannot_read(path, error) from error

    def next(self) -> tuple[bytes, Found | None]:
        name = self.names.pop()
        path = self._path + name
        try:
            return path, self._view.lookup(self._directory, name)
        except OSError as error:
            raise _cannot_read(path, error) from error


def _cannot_read(path: bytes, error: OSError) -> ImageError:
    return ImageError(f"cannot read /{os.fsdecode(path)}: {error.strerror}")
