"""Layers as the lowers of a union, and the locks that say that a mount has them. Mounts nothing.

A mount holds a shared lock (flock(2)) on the root directory of each tree that is a lower of it, for as long
as its daemon lives. So what is mounted is found by trying the exclusive lock: a mount of any user, in any
namespaces, and also where its daemon hangs. The lock is taken under `Store.in_use`; what removes
trees does so under `Store.pruning`, and tries each first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unionfs.errors import ImageError, MountError
from unionfs.image import find
from unionfs.image.layer_record import Layer, layers_of
from unionfs.image.store import Store
from unionfs.linux.process import raise_open_file_limit
from unionfs.overlay.owners import override_stat

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Lowers:
    """Directories of layers, topmost first, and the descriptors that hold them."""

    paths: tuple[str, ...]
    held: tuple[int, ...]

    @property
    def override_stat(self) -> bool:
        """Whether attributes say owners and modes in there, as an ordinary user with a single id unpacks."""
        return any(override_stat.xattrs_of(fd) for fd in self.held)


@contextmanager
def image_lowers(store: Store, text: str) -> Iterator[Lowers]:
    """The layers of the image that a user means (`find.resolve`), held until the block ends.

    Raises NotFoundError where image or layers are not there, and ImageError where it has none.
    """
    with store.in_use():
        image = find.resolve(store, text)
        config = find.config_of(store, find.manifest_of(store, image.manifest))
        lowers = hold(tree_paths(layers_of(store, config)))
    try:
        if not lowers.paths:
            raise ImageError(f"image {text} has no layers: there is nothing to mount")
        yield lowers
    finally:
        release(lowers)


def tree_paths(layers: Sequence[Layer]) -> list[Path]:
    """The trees of layers (lowest first) as lowers: topmost first, each once.

    Where layers share a tree its topmost place counts: it hides the same names there, and shows all that it
    would show below. Overlayfs refuses a directory that is given twice.
    """
    return list(dict.fromkeys(layer.path for layer in reversed(layers)))


def hold(paths: Iterable[Path]) -> Lowers:
    """Lock the trees as a mount has them. The caller holds `Store.in_use`, and calls `release`."""
    raise_open_file_limit()
    found: list[str] = []
    held: list[int] = []
    try:
        for path in paths:
            found.append(os.path.realpath(path))
            held.append(os.open(found[-1], _OPEN_DIR))
            fcntl.flock(held[-1], fcntl.LOCK_SH)
    except OSError as error:
        for fd in held:
            os.close(fd)
        raise MountError(f"cannot lock layer {found[-1]}: {error.strerror}") from error
    return Lowers(tuple(found), tuple(held))


def release(lowers: Lowers) -> None:
    """Close the descriptors; a daemon that has them, too, keeps the locks."""
    for fd in lowers.held:
        os.close(fd)


def is_mounted(tree: Path) -> bool:
    """Whether a mount has this tree (`trees/NAME/diff`) as a lower. The caller holds `Store.pruning`."""
    fd = os.open(tree, _OPEN_DIR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
