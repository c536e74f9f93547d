"""Taking upper and work for a mount when another mount has them.

umount(8) returns when nothing can be changed through a mount any more; its daemon then still has to write
out, and lets go of upper after that. Who mounts the same directories again waits for it, and never for one
that is mounted.

A container engine's mount (`any_work`) does not wait for one that lives on in another mount namespace and of
which nothing is open, either: `buildah unshare` leaves such mounts behind, one for each session that did not
unmount, where nobody can reach them. They share upper then, as engines are used to; who came later asks the
layers again each second. Nobody's mount is ended here.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace

from unionfs import control
from unionfs.answer import Status
from unionfs.options import MountOptions
from unionfs.overlay import check
from unionfs.overlay.config import UnionConfig

_PAUSE = 0.02
_ASK_EACH = 1.0

_SETTLED = 0.5
"""Seconds after which a mount that was just taken out of the tree has ended, when nothing of it is open."""

_TIMEOUT = 1.0

logger = logging.getLogger("unionfs.daemon")


def take_over(config: UnionConfig, patience: float) -> check.Lock:
    """`check.lock`, which waits up to `patience` seconds. InUse: they are somebody's who does not end."""
    start = time.monotonic()
    ask_at = 0.0
    while True:
        try:
            return check.lock(config)
        except check.InUse:
            now = time.monotonic()
            if now >= start + patience:
                raise
            if now >= ask_at:
                holders = _holders(config)
                if any(status["state"] == "serving" for status in holders):
                    raise
                if now < start + _SETTLED:
                    ask_at = start + _SETTLED
                elif config.any_work and holders and all(map(_may_share, holders)):
                    return check.lock(replace(config, shared_work=True))
                else:
                    # Not on and on, for all daemons are asked.
                    ask_at = now + _ASK_EACH
        time.sleep(_PAUSE)


def agree(options: MountOptions, lock: check.Lock) -> MountOptions:
    """The options for a mount that has this lock."""
    if lock.whiteouts is not None and lock.whiteouts != options.config.whiteouts:
        options = replace(options, config=replace(options.config, whiteouts=lock.whiteouts))
    if not lock.shared:
        return options
    config = options.config
    logger.warning("upper %s is in use by a mount of another mount namespace, too", config.upper)
    timeout = _TIMEOUT if config.timeout is None else config.timeout
    return replace(options, config=replace(config, shared_work=True, timeout=timeout))


def _holders(config: UnionConfig) -> list[Status]:
    """The mounts that answer and have one of the two: one that is about to end does not, or is detached."""
    wanted = {config.upper, config.work}
    return [
        status
        for status in control.mounts()
        if status["state"] != "unreachable" and not wanted.isdisjoint((status["upper"], status["work"]))
    ]


def _may_share(status: Status) -> bool:
    # Another user's daemon can say what it likes: it shall not have us write where somebody else still does.
    return status["user"] == os.geteuid() and not status["open_handles"]
