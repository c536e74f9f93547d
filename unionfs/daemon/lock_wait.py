"""Locking upper and work for a mount while another mount has them.

umount(8) returns when nothing can be changed through a mount any more; its daemon then still has to write
out, and unlocks upper after that. A mount of the same directories waits for such a daemon, and never for one
that is mounted.

A container engine's mount (`any_work`) does not wait for a mount, either, that exists only in another mount
namespace and of which nothing is open: `buildah unshare` leaves such mounts behind, one for each session that
did not unmount, where no process can reach them. They share upper then, as engines expect; the later mount
looks at the layers again each second. A daemon that gets no OPEN requests reports that nothing is open
(`in_use`) only when no process is left that could reach the mount. No mount is ended here.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace

from unionfs.control import status_socket
from unionfs.control.status_schema import Status
from unionfs.options.mount_options import MountOptions
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.lock import InUse, Lock, lock_and_check

_PAUSE = 0.02
_QUERY_INTERVAL = 1.0

_DETACH_TIME = 0.5
"""Seconds after which a mount that was just taken out of the tree has ended, when nothing of it is open."""

_QUIET_TIME = 1.0
"""Seconds of waiting after which a message is printed."""

_SHARED_TIMEOUT = 1.0
"""The `timeout` option of a mount that shares upper."""

logger = logging.getLogger("unionfs.daemon.lifecycle")


def acquire(config: UnionConfig, patience: float) -> Lock:
    """`lock_and_check`, waiting up to `patience` seconds. InUse: another mount has them and does not end."""
    start = time.monotonic()
    ask_at = 0.0
    reported = False
    while True:
        try:
            return lock_and_check(config)
        except InUse as error:
            now = time.monotonic()
            if now >= start + patience:
                raise name_holder(error, config) from None
            if now >= ask_at:
                holders = _holders(config)
                if any(status["state"] == "serving" for status in holders):
                    raise _refusal(error, holders) from None
                if not reported and now >= start + _QUIET_TIME:
                    reported = True
                    _print_waiting(error, holders)
                if now < start + _DETACH_TIME:
                    ask_at = start + _DETACH_TIME
                elif config.any_work and holders and all(map(_may_share, holders)):
                    return lock_and_check(replace(config, shared_work=True))
                else:
                    # Not in each turn, because this queries all daemons.
                    ask_at = now + _QUERY_INTERVAL
        time.sleep(_PAUSE)


def name_holder(error: InUse, config: UnionConfig) -> InUse:
    """The same error with the name of the mount that has the directories, where it can be found."""
    return _refusal(error, _holders(config))


def _refusal(error: InUse, holders: list[Status]) -> InUse:
    import shlex  # here, because few mounts are refused

    for status in holders:
        if status["state"] == "serving":
            path = status["mountpoint"]
            return InUse(
                error.what,
                f"the mount on {path}{_pid(status)}: unmount that one"
                f" (`pyunionfs umount {shlex.quote(path)}`), or use other directories",
            )
    for status in holders:
        if status["in_use"]:
            files = "may be open" if status["silent_opens"] else "are still open"
            return InUse(
                error.what,
                "a mount that was detached with --lazy (or is in another mount namespace), and files in it"
                f" {files}{_pid(status)}: close them, or use other directories",
            )
    return error


def _print_waiting(error: InUse, holders: list[Status]) -> None:
    pids = [status["pid"] for status in holders if status["pid"] is not None]
    holder = f"pid {pids[0]}" if pids else "another mount"
    print(f"pyunionfs: waiting for {holder} to release {error.what}", file=sys.stderr)


def _pid(status: Status) -> str:
    return "" if status["pid"] is None else f" (pid {status['pid']})"


def adapt_options(options: MountOptions, lock: Lock) -> MountOptions:
    """The options, adapted to what the lock has found out."""
    if lock.whiteouts is not None and lock.whiteouts != options.config.whiteouts:
        options = replace(options, config=replace(options.config, whiteouts=lock.whiteouts))
    if not lock.shared:
        return options
    config = options.config
    logger.warning("upper %s is shared with a mount of another mount namespace", config.upper)
    timeout = _SHARED_TIMEOUT if config.timeout is None else config.timeout
    return replace(options, config=replace(config, shared_work=True, timeout=timeout))


def _holders(config: UnionConfig) -> list[Status]:
    """The mounts whose daemons reply and have one of the two; one that is ending does not, or is detached."""
    wanted = {config.upper, config.work}
    return [
        status
        for status in status_socket.list_mounts()
        if status["state"] != "unreachable" and not wanted.isdisjoint((status["upper"], status["work"]))
    ]


def _may_share(status: Status) -> bool:
    # Another user's daemon may lie: it must not make this one write to an upper that is still written to.
    return status["user"] == os.geteuid() and not status["in_use"]
