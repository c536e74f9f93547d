"""Unmounts and detaches: the mount on top at a path, or one mount at every path where it is.

Never a mount that was mounted over it, and never by a stat of the path, which may hang.
"""

from __future__ import annotations

import errno
import logging
import os
import threading

from unionfs.errors import MountError
from unionfs.linux import mount

log = logging.getLogger(__name__)

_STATVFS_TIMEOUT = 1.0


def unmount(mountpoint: str, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount what is on top at `mountpoint`, also one whose daemon has died.

    `lazy` detaches it at once, and open files go on being served. `force` (for root) first aborts all pending
    requests, also those that write. OSError EBUSY: files are in use there; EINVAL: nothing is mounted there;
    MountError: only fusermount3 could unmount it, and it failed.
    """
    flags = (mount.MNT_DETACH if lazy else 0) | (mount.MNT_FORCE if force else 0)
    try:
        mount.umount(mountpoint, mount.UMOUNT_NOFOLLOW | flags)
        return
    except PermissionError:
        pass
    from unionfs.transport import fusermount

    fusermount.unmount(mountpoint, lazy=lazy)


def detach(device: tuple[int, int] | None, *, only_dead: bool = False) -> None:
    """Detach this mount wherever it is: it may have been moved, or bound to other places.

    `only_dead` is for a mount that may be gone: its device number may then be that of another one, mounted
    this very moment, which is kept because it is served.
    """
    try:
        for entry in reversed(mount.mount_table()):
            if entry.device == device and not (only_dead and is_served(entry.path)):
                _detach_one(entry)
    except OSError as error:
        log.error("reading the mount table failed: %s; the mount may still be there: unmount it", error)


def is_served(path: str) -> bool:
    """Whether the daemon of a FUSE mount replies, or may. May be called in a process with threads."""
    found: list[int] = []

    def statvfs() -> None:
        try:
            os.statvfs(path)
            found.append(0)
        except OSError as error:
            found.append(error.errno or 0)

    # The daemon may be stuck: hence a thread, which may be left behind.
    thread = threading.Thread(target=statvfs, daemon=True)
    thread.start()
    thread.join(_STATVFS_TIMEOUT)
    # ECONNABORTED: the same as ENOTCONN, with FUSE_ABORT_ERROR.
    return not found or found[0] not in (errno.ENOTCONN, errno.ECONNABORTED)


def _detach_one(entry: mount.MountPoint) -> None:
    # The table is read again: each unmount may take others with it, or uncover them.
    table = mount.mount_table()
    if all(each.mount_id != entry.mount_id for each in table):
        return
    top = mount.mount_at(entry.path, table)
    if top is None or top.mount_id != entry.mount_id:
        log.warning("%s is covered by another mount: unmount both", entry.path)
        return
    try:
        unmount(entry.path, lazy=True)
    except (OSError, MountError) as error:
        log.error("unmount of %s failed: %s", entry.path, error)
