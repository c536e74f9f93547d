"""Opening the layers of a union: for a mount, or without one to look at them or to repair them.

The directories were checked before (`check.py`), and locked where they are to be changed (`lock.py`).
"""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from enum import Enum, auto

from unionfs.linux import process, syscalls
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import CAP_SETUID, Caller, Identity
from unionfs.overlay.data_only import DataLayers
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.layer import DirFds, Layer, RealDir, open_lowers, open_upper, open_upper_to_look
from unionfs.overlay.lend import restore
from unionfs.overlay.owners.identity import identity_for
from unionfs.overlay.owners.setup import owners_of, owners_to_look
from unionfs.overlay.ties import open_work
from unionfs.overlay.work import Work

_MOST_DIR_FDS = 16384


class Use(Enum):
    """What a union is opened for."""

    MOUNT = auto()
    """Operations of callers: work is cleared and marked as in use."""
    REPAIR = auto()
    """No operation, but steps that mend upper and work: both are opened, and nothing is changed."""
    LOOK = auto()
    """No change at all: upper is opened read-only and work is not, so that the union may be mounted."""


def open_fs(config: UnionConfig, use: Use, *, most_dir_fds: int = _MOST_DIR_FDS) -> OverlayFs:
    """Open the layers; `OverlayFs.close` closes them. *most_dir_fds* bounds the directories kept open.

    Raises MountError, and OSError for what only opening can tell.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    dirfds = DirFds(min(most_dir_fds, soft // 4))
    upper: Layer | None = None
    work: Work | None = None
    work_fd = -1
    work_root: RealDir | None = None
    privileged = _is_privileged(use)
    with ExitStack() as on_failure:
        lowers = open_lowers(config.lowers, dirfds)
        for layer in lowers:
            on_failure.callback(layer.close)
        data = open_lowers(config.data_lowers, dirfds, len(lowers))
        for layer in data:
            on_failure.callback(layer.close)
        if config.upper is not None and use is Use.LOOK:
            upper = open_upper_to_look(config.upper, dirfds)
            on_failure.callback(upper.close)
        elif config.upper is not None and config.work is not None:
            upper, work_fd = open_upper(config.upper, config.work, dirfds)
            on_failure.callback(upper.close)
            if use is Use.MOUNT:
                work = open_work(config, upper, lowers, data, work_fd)
                on_failure.callback(work.close)
                if work.notes:
                    restore(os.geteuid(), upper.root_fd, work)
            else:
                on_failure.callback(os.close, work_fd)
        if use is Use.MOUNT:
            owners = owners_of(config, upper, lowers)
            identity = identity_for(owners, privileged=privileged)
        else:
            owners = owners_to_look(config, lowers if upper is None else [upper, *lowers])
            identity = Identity(privileged=privileged)
            # After the owners, which may have made another class of upper's directories.
            work_root = None if upper is None or work_fd < 0 else upper.root.aside(work_fd)
        data_only = DataLayers(data) if data else None
        fs = OverlayFs(config, upper, work, lowers, dirfds, identity, data_only, owners, work_root)
        on_failure.pop_all()
    return fs


def _is_privileged(use: Use) -> bool:
    """Whether the union passes over modes."""
    if use is Use.LOOK:
        return True  # an unprivileged one would lend itself permissions by chmod(2), which is a change
    if use is Use.REPAIR:
        return process.has_capability(CAP_SETUID)
    me = Caller(os.geteuid(), os.getegid(), os.getpid(), 0)
    return me.has_capability(CAP_SETUID) and syscalls.keep_capabilities_across_fsuid()
