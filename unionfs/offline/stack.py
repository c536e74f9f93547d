"""The layers of a union that is not mounted, locked and opened for a check.

The core's own view of them, without a work directory of its own: nothing here can copy up or clean up. Holds
the lock that a mount takes, so that no mount has the same upper meanwhile. Lowers are opened read-only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from unionfs.errors import MountError
from unionfs.overlay.check import check
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.layer import Layer, RealDir
from unionfs.overlay.lock import lock
from unionfs.overlay.open_fs import Use, open_fs

_MAX_DIR_FDS = 500


class Stack:
    """The open layers: `fs` is the core's state, `work` the work directory beside upper."""

    __slots__ = ("config", "fs", "upper", "work")

    def __init__(self, config: UnionConfig, fs: OverlayFs, upper: Layer, work: RealDir) -> None:
        self.config = config
        self.fs = fs
        self.upper = upper
        self.work = work

    def upper_dir(self, path: bytes) -> RealDir:
        """The directory at *path*, relative to upper, each component opened beneath the one before."""
        real = self.upper.root
        for part in path.split(b"/") if path else ():
            real = real.child(part)
        return real

    def upper_has(self, path: bytes) -> bool:
        """Whether upper has an object at *path*."""
        above, _, name = path.rpartition(b"/")
        try:
            return self.upper_dir(above).has(name)
        except (FileNotFoundError, NotADirectoryError):
            return False


def real_path(directory: RealDir, name: bytes = b"") -> bytes:
    """The path of an object of a layer."""
    parts = [name] if name else []
    at: RealDir | None = directory
    while at is not None and at.parent is not None:
        parts.append(at.name)
        at = at.parent
    return b"/".join([os.fsencode(directory.layer.path).rstrip(b"/"), *reversed(parts)])


@contextmanager
def open_stack(config: UnionConfig, *, writable: bool) -> Iterator[Stack]:
    """Lock and open the layers of *config*, which has an upper.

    Raises MountError where a mount would be refused because of its directories, or is mounted.
    """
    # As for a mount with static layers: nothing else may change them now.
    config = replace(config, timeout=None)
    assert config.upper is not None
    assert config.work is not None
    check(config, "/", writable=writable)
    held = lock(config)
    fs: OverlayFs | None = None
    try:
        fs = open_fs(config, Use.REPAIR, most_dir_fds=_MAX_DIR_FDS)
        assert fs.upper is not None
        assert fs.work_root is not None
        yield Stack(config, fs, fs.upper, fs.work_root)
    except PermissionError as error:
        raise MountError(
            f"{error.filename or config.upper}: {error.strerror}; run the check as the user who mounts the"
            " union, or as root"
        ) from error
    finally:
        if fs is not None:
            fs.close()
        held.close()
