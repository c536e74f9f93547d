"""Taking upper and work for a mount when another mount has them.

umount(8) returns when nothing can be changed through a mount any more; its daemon then still has to write
out, and lets go of upper after that. Who mounts the same directories again waits for it, and never for one
that is mounted.

A container engine's mount (`any_work`) does not wait for one that lives on in another mount namespace and of
which nothing is open, either: `buildah unshare` leaves such mounts behind, one for each session that did not
unmount, where nobody can reach them. They share upper then, as engines are used to; who came later asks the
layers again each second. A daemon that is not told what is open says that nothing is (`in_use`) only when no
process is left that could reach the mount. Nobody's mount is ended here.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from dataclasses import replace

from unionfs.control import status_socket
from unionfs.control.status_schema import Status
from unionfs.options.mount_options import MountOptions
from unionfs.overlay import check
from unionfs.overlay.config import UnionConfig

_PAUSE = 0.02
_ASK_EACH = 1.0

_SETTLED = 0.5
"""Seconds after which a mount that was just taken out of the tree has ended, when nothing of it is open."""

_SILENCE = 1.0
"""Seconds that are waited before it is said."""

_TIMEOUT = 1.0

logger = logging.getLogger("unionfs.daemon.lifecycle")


def take_over(config: UnionConfig, patience: float) -> check.Lock:
    """`check.lock`, which waits up to `patience` seconds. InUse: they are somebody's who does not end."""
    start = time.monotonic()
    ask_at = 0.0
    told = False
    while True:
        try:
            return check.lock(config)
        except check.InUse as error:
            now = time.monotonic()
            if now >= start + patience:
                raise explained(error, config) from None
            if now >= ask_at:
                holders = _holders(config)
                if any(status["state"] == "serving" for status in holders):
                    raise _refusal(error, holders) from None
                if not told and now >= start + _SILENCE:
                    told = True
                    _tell(error, holders)
                if now < start + _SETTLED:
                    ask_at = start + _SETTLED
                elif config.any_work and holders and all(map(_may_share, holders)):
                    return check.lock(replace(config, shared_work=True))
                else:
                    # Not on and on, for all daemons are asked.
                    ask_at = now + _ASK_EACH
        time.sleep(_PAUSE)


def explained(error: check.InUse, config: UnionConfig) -> check.InUse:
    """The same refusal with the name of the mount that has them, where that can be found out."""
    return _refusal(error, _holders(config))


def _refusal(error: check.InUse, holders: list[Status]) -> check.InUse:
    for status in holders:
        if status["state"] == "serving":
            path = status["mountpoint"]
            return check.InUse(
                error.what,
                f"the mount on {path}{_pid(status)}: unmount that one"
                f" (`pyunionfs umount {shlex.quote(path)}`), or use other directories",
            )
    for status in holders:
        if status["in_use"]:
            files = "may be open" if status["silent_opens"] else "are still open"
            return check.InUse(
                error.what,
                "a mount that was detached with --lazy (or is in another mount namespace), and files in it"
                f" {files}{_pid(status)}: close them, or use other directories",
            )
    return error


def _tell(error: check.InUse, holders: list[Status]) -> None:
    pids = [status["pid"] for status in holders if status["pid"] is not None]
    who = f"pid {pids[0]}" if pids else "another mount"
    print(f"pyunionfs: waiting for {who}, which still has {error.what}", file=sys.stderr)


def _pid(status: Status) -> str:
    return "" if status["pid"] is None else f" (pid {status['pid']})"


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
        for status in status_socket.mounts()
        if status["state"] != "unreachable" and not wanted.isdisjoint((status["upper"], status["work"]))
    ]


def _may_share(status: Status) -> bool:
    # Another user's daemon can say what it likes: it shall not have us write where somebody else still does.
    return status["user"] == os.geteuid() and not status["in_use"]
