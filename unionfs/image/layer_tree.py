"""The directory of a layer that is being made, walked by descriptors: no name leads through a symlink.

Knows where things lie, and nothing of attributes, marks and tar.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_KEPT = 128
"""Descriptors of directories that are kept open."""

Names = tuple[bytes, ...]
"""A path from the layer's root, by its components; () is the root."""


class LayerTree:
    """Directories by their paths. Descriptors that it gives stay open until the next call."""

    def __init__(self, root: Path) -> None:
        self.root = os.open(root, _DIRECTORY)
        self._kept: OrderedDict[Names, int] = OrderedDict()

    def close(self) -> None:
        self.forget()
        os.close(self.root)

    def forget(self) -> None:
        """Close what is kept: a directory is going to be another, or none."""
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()

    def directory(self, names: Names, make: Callable[[int, Names], None] | None = None) -> int:
        """A descriptor of a directory of the layer.

        What is missing on the way, or no directory, is made by *make*, which is called with a descriptor of
        the directory above and the path. Without it FileNotFoundError, NotADirectoryError or ELOOP is raised.
        """
        if not names:
            return self.root
        kept = self._kept.get(names)
        if kept is not None:
            self._kept.move_to_end(names)
            return kept
        above = self.directory(names[:-1], make)
        try:
            fd = os.open(names[-1], _DIRECTORY, dir_fd=above)
        except (FileNotFoundError, NotADirectoryError):
            if make is None:
                raise
            make(above, names)
            # Making it may have looked at others.
            fd = os.open(names[-1], _DIRECTORY, dir_fd=self.directory(names[:-1]))
        self._kept[names] = fd
        if len(self._kept) > _MOST_KEPT:
            _, oldest = self._kept.popitem(last=False)
            os.close(oldest)
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
        """Remove what is there, a directory with all that is in it."""
        if not stat.S_ISDIR(st.st_mode):
            os.unlink(name, dir_fd=directory)
            return
        directory = os.dup(directory)  # it may be one of those that are forgotten
        try:
            self.forget()
            _remove_directory(directory, name)
        finally:
            os.close(directory)


def _remove_directory(above: int, name: bytes) -> None:
    os.chmod(name, 0o700, dir_fd=above)
    fd = os.open(name, _DIRECTORY, dir_fd=above)
    try:
        with os.scandir(fd) as listing:
            entries = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in listing]
        for each, is_directory in entries:
            if is_directory:
                _remove_directory(fd, each)
            else:
                os.unlink(each, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=above)
