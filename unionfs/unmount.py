"""Ending a mount from outside: unmount, and wait until its daemon has written everything out and is gone.

Works for mounts whose daemon has died too. Never unmounts what is not this program's, and never kills a
daemon.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import time

from unionfs import control
from unionfs.errors import MountError
from unionfs.linux import process
from unionfs.linux.mount import MountPoint, mount_at, mount_table
from unionfs.options import resolve_mountpoint
from unionfs.transport.mount import FSTYPE, unmount

_BUSY_TRIES = 5
_BUSY_PAUSE = 0.1
_PATIENCE = 5.0


def umount(path: str, *, lazy: bool = False) -> None:
    """Unmount `path` and wait for its daemon. With `lazy` it vanishes now, and open files go on being served.

    MountError: nothing of ours is mounted there, it is in use, or it is another user's.
    """
    mountpoint = resolve_mountpoint(path)
    entry = mount_at(mountpoint)
    if entry is None:
        raise MountError(f"nothing is mounted on {mountpoint}: `pyunionfs status` lists the mounts")
    if entry.fstype != FSTYPE:
        raise MountError(f"{mountpoint} is a {entry.fstype} mount and not pyunionfs's: use `umount` for it")
    owner = entry.super_option("user_id")
    if os.geteuid() != 0 and owner != str(os.geteuid()):
        raise MountError(f"{mountpoint} was mounted by user {owner}: only that user or root can unmount it")
    daemon = control.find(entry)
    pidfd = process.open_process(daemon.pid) if daemon is not None else None
    try:
        _unmount(mountpoint, entry, lazy)
        if pidfd is not None and not lazy:
            _wait(pidfd, mountpoint, entry)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _unmount(mountpoint: str, entry: MountPoint, lazy: bool) -> None:
    for attempt in range(_BUSY_TRIES):
        try:
            unmount(mountpoint, lazy=lazy)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise MountError(f"cannot unmount {mountpoint}: {error.strerror}") from error
        # A program that has just ended may still be letting go of its files.
        if attempt + 1 < _BUSY_TRIES:
            time.sleep(_BUSY_PAUSE)
    raise MountError(
        f"{mountpoint} is busy: {_reason(mountpoint, entry)}; end that first, or take it away under them with"
        f" `pyunionfs umount --lazy {shlex.quote(mountpoint)}`"
    )


def _reason(mountpoint: str, entry: MountPoint) -> str:
    above = [each.path for each in mount_table() if each.parent_id == entry.mount_id]
    if above:
        return f"{above[0]} is mounted in it"
    users = process.users_of(mountpoint)
    if not users:
        return "files in it are in use"
    return "in use by " + ", ".join(f"{name} (pid {pid})" for pid, name in users)


def _wait(pidfd: int, mountpoint: str, entry: MountPoint) -> None:
    """Until the daemon is gone. It may have much to write out, or serve a copy of the mount elsewhere."""
    if process.wait_for_exit(pidfd, _PATIENCE):
        return
    if control.find(entry) is not None:
        raise MountError(
            f"{mountpoint} is unmounted here, but its daemon still serves it in another mount namespace (a"
            " container"
            " that was started meanwhile): it ends when that does"
        )
    print(f"pyunionfs: waiting until the data of {mountpoint} is written out", file=sys.stderr)
    process.wait_for_exit(pidfd, None)
