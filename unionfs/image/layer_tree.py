"""The directory of a layer that is being made, walked by descriptors: no name leads through a symlink.

Knows where things lie, and nothing of attributes, marks and tar.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from unionfs.image.store import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_KEPT = 128
"""Descriptors of directories that stay open from one entry to the next."""
_DEEP = 32
"""Of a path with more components only the last directory is kept: the path may have 2,000."""

Names = tuple[bytes, ...]
"""A path from the layer's root, by its components; () is the root."""


class LayerTree:
    """Directories by their paths. Descriptors that it gives stay open until `trim` or `forget`."""

    def __init__(self, root: Path) -> None:
        self.root = os.open(root, _DIRECTORY)
        self._kept: dict[Names, int] = {}

    def close(self) -> None:
        self.forget()
        os.close(self.root)

    def forget(self) -> None:
        """Close what is kept: a directory is going to be another, or none."""
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()

    def trim(self) -> None:
        """Close all but some; to be called where no descriptor is in use."""
        while len(self._kept) > _MOST_KEPT:
            names = next(iter(self._kept))
            os.close(self._kept.pop(names))

    def directory(self, names: Names, make: Callable[[int, Names], None] | None = None) -> int:
        """A descriptor of a directory of the layer.

        What is missing on the way, or no directory, is made by *make*, which is called with a descriptor of
        the directory above and the path. Without it FileNotFoundError, NotADirectoryError or ELOOP is raised.
        """
        if not names:
            return self.root
        kept = self._kept.get(names)
        if kept is not None:
            return kept
        known = len(names) - 1
        while known and names[:known] not in self._kept:
            known -= 1
        fd = self._kept[names[:known]] if known else self.root
        passing = -1
        try:
            for depth in range(known + 1, len(names) + 1):
                part = names[:depth]
                below = _open(fd, part, make)
                made = self._kept.get(part)
                if made is not None:  # *make* has asked for the directory that it has made
                    os.close(below)
                    below = made
                if passing >= 0:
                    os.close(passing)
                fd, passing = below, -1 if made is not None else below
                if passing >= 0 and (depth == len(names) or len(names) <= _DEEP):
                    self._kept[part] = fd
                    passing = -1
        except BaseException:
            if passing >= 0:
                os.close(passing)
            raise
        return fd

    def lstat(self, names: Names) -> os.stat_result | None:
        """What is there under a path, itself; None for nothing, or where the way to it is none."""
        try:
            if not names:
                return os.fstat(self.root)
            return os.stat(names[-1], dir_fd=self.directory(names[:-1]), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, directory: int, name: bytes, st: os.stat_result) -> None:
        """Remove what is there, a directory with all that is in it; then no descriptor is good any more."""
        if not stat.S_ISDIR(st.st_mode):
            os.unlink(name, dir_fd=directory)
            return
        remove_tree(Path(f"/proc/self/fd/{directory}") / os.fsdecode(name))
        self.forget()


def _open(above: int, names: Names, make: Callable[[int, Names], None] | None) -> int:
    try:
        return os.open(names[-1], _DIRECTORY, dir_fd=above)
    except (FileNotFoundError, NotADirectoryError):
        if make is None:
            raise
        make(above, names)
        return os.open(names[-1], _DIRECTORY, dir_fd=above)
