"""Taking upper and work over from a mount that has just gone.

umount(8) returns when nothing can be changed through a mount any more; its daemon then still has to write
out, and lets go of upper after that. Who mounts the same directories again waits for it, and never for one
that is mounted.
"""

from __future__ import annotations

import time

from unionfs import control
from unionfs.overlay import check
from unionfs.overlay.config import UnionConfig

_PAUSE = 0.02
_ASK_EACH = 1.0


def take_over(config: UnionConfig, patience: float) -> check.Lock:
    """`check.lock`, which waits up to `patience` seconds. InUse: they are somebody's who does not end."""
    deadline = time.monotonic() + patience
    ask_at = 0.0
    while True:
        try:
            return check.lock(config)
        except check.InUse:
            if time.monotonic() >= deadline:
                raise
            if time.monotonic() >= ask_at:
                if _is_mounted(config):
                    raise
                # Not on and on, for all daemons are asked.
                ask_at = time.monotonic() + _ASK_EACH
        time.sleep(_PAUSE)


def _is_mounted(config: UnionConfig) -> bool:
    """Whether a mount that answers has one of the two: one that is about to end does not, or is detached."""
    wanted = {config.upper, config.work}
    return any(
        status["state"] == "serving" and not wanted.isdisjoint((status["upper"], status["work"]))
        for status in control.mounts()
    )
