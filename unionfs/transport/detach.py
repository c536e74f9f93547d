"""Taking mounts out of the tree: one that is on top at a path, or every place where a given mount is.

Never anything that was mounted over it, and never a path that would have to be looked at: it may hang.
"""

from __future__ import annotations

import errno
import logging
import os
import threading

from unionfs.errors import MountError
from unionfs.linux import mount as linux

log = logging.getLogger(__name__)

_ANSWER_TIME = 1.0


def unmount(mountpoint: str, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount what is on top at `mountpoint`, also one whose daemon has died.

    `lazy` takes it out of the tree at once and lets open files go on. `force` (root's) first gives up all
    requests that are not answered yet, also those that write. OSError EBUSY: files are in use there; EINVAL:
    nothing is mounted there; MountError: only fusermount3 could, and it did not.
    """
    flags = (linux.MNT_DETACH if lazy else 0) | (linux.MNT_FORCE if force else 0)
    try:
        linux.umount(mountpoint, linux.UMOUNT_NOFOLLOW | flags)
        return
    except PermissionError:
        pass
    from unionfs.transport import fusermount

    fusermount.unmount(mountpoint, lazy=lazy)


def detach(device: tuple[int, int] | None, *, only_dead: bool = False) -> None:
    """Take this mount out of the tree wherever it is: it may have been moved, or bound to other places.

    `only_dead` is for a mount that may be gone: its number is another's then, perhaps of one that was mounted
    this very moment, and that one is left alone because it is served.
    """
    try:
        for entry in reversed(linux.mount_table()):
            if entry.device == device and not (only_dead and is_served(entry.path)):
                _detach_one(entry)
    except OSError as error:
        log.error("cannot free the mountpoint: %s", error)


def is_served(path: str) -> bool:
    """Whether a FUSE mount has somebody who answers, or might. May be asked in a process with threads."""
    found: list[int] = []

    def ask() -> None:
        try:
            os.statvfs(path)
            found.append(0)
        except OSError as error:
            found.append(error.errno or 0)

    # Who is asked may be stuck: that takes a thread, which may be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_TIME)
    # ECONNABORTED: as ENOTCONN, where that was agreed on with the kernel.
    return not found or found[0] not in (errno.ENOTCONN, errno.ECONNABORTED)


def _detach_one(entry: linux.MountPoint) -> None:
    # The table is read again: each unmount may take others with it, or uncover them.
    table = linux.mount_table()
    if all(each.mount_id != entry.mount_id for each in table):
        return
    top = linux.mount_at(entry.path, table)
    if top is None or top.mount_id != entry.mount_id:
        log.warning("%s is covered by another mount: unmount both", entry.path)
        return
    try:
        unmount(entry.path, lazy=True)
    except (OSError, MountError) as error:
        log.error("cannot free %s: %s", entry.path, error)
