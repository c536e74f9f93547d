"""The layers below one that is being unpacked, as the union of them shows a name. Reads only.

Walks by descriptors, one component at a time: a name never leads through a symlink or out of a layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unionfs.image.layer_form import LayerForm

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """An object of a layer, by a descriptor (O_PATH; a directory's can be read) that the caller closes."""

    fd: int
    st: os.stat_result


def find(layers: Sequence[Path], names: Sequence[bytes], form: LayerForm) -> Found | None:
    """What the union of *layers*, topmost first, has under a path; None where there is nothing."""
    directories: list[int] = []
    below: list[int] = []
    try:
        for layer in layers:
            directories.append(os.open(layer, _DIRECTORY))
        for number, name in enumerate(names):
            last = number == len(names) - 1
            for directory in directories:
                found = _look(directory, name)
                if found is None:
                    continue
                if last and _is_whiteout(found.st):
                    os.close(found.fd)
                    return None
                if last:
                    return found
                is_directory = stat.S_ISDIR(found.st.st_mode)
                if is_directory:
                    below.append(found.fd)
                else:
                    os.close(found.fd)
                if not is_directory or form.is_opaque(found.fd):
                    break
            for directory in directories:
                os.close(directory)
            directories, below = below, []
        return None
    finally:
        for directory in (*directories, *below):
            os.close(directory)


def names(layers: Sequence[Path]) -> set[bytes]:
    """What any of the layers has in its root, whiteouts among them."""
    return {os.fsencode(name) for layer in layers for name in os.listdir(layer)}


def _look(directory: int, name: bytes) -> Found | None:
    try:
        st = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    fd = os.open(name, _DIRECTORY if stat.S_ISDIR(st.st_mode) else _PATH, dir_fd=directory)
    return Found(fd, st)


def _is_whiteout(st: os.stat_result) -> bool:
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0
