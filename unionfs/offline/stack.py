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
from unionfs.linux import process
from unionfs.offline.layer_view import owners_by_xattr
from unionfs.overlay.check import check
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import CAP_SETUID, Identity
from unionfs.overlay.data_only import DataLayers
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.layer import DirFds, Layer, RealDir, open_lowers, open_upper
from unionfs.overlay.lock import lock

_DIR_FDS = 500


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
    layers: list[Layer] = []
    work_fd = -1
    dirfds = DirFds(_DIR_FDS)
    try:
        layers += (lowers := open_lowers(config.lowers, dirfds))
        layers += (data := open_lowers(config.data_lowers, dirfds, len(lowers)))
        upper, work_fd = open_upper(config.upper, config.work, dirfds)
        layers.append(upper)
        identity = Identity(privileged=process.has_capability(CAP_SETUID))
        data_only = DataLayers(data) if data else None
        owners = owners_by_xattr(config, [upper, *lowers]) if config.uses_override_stat else None
        fs = OverlayFs(config, upper, None, lowers, dirfds, identity, data_only, owners)
        yield Stack(config, fs, upper, upper.root.aside(work_fd))
    except PermissionError as error:
        raise MountError(
            f"{error.filename or config.upper}: {error.strerror}; run the check as the user who mounts the"
            " union, or as root"
        ) from error
    finally:
        dirfds.close_all()
        if work_fd >= 0:
            os.close(work_fd)
        for layer in layers:
            layer.close()
        held.close()
