"""Access times of upper's files: set as the union's own mount says, from its mounting to its last remount.

A file that is read by passthrough, or by the daemon, is read through the private mount of upper, and that
mount's flags decide. Overlayfs asks the flags of the union's mount (ovl_get_upper() clears those of its own).
Changes only that private mount, never what an administrator has mounted.
"""

from __future__ import annotations

import logging
import os
import select
import threading

from unionfs.linux import fs as linux
from unionfs.linux.mount import MountPoint, options_of

logger = logging.getLogger("unionfs.daemon.lifecycle")


def attributes(options: tuple[str, ...]) -> int:
    """The `MOUNT_ATTR_` of a mount with these options in /proc/self/mountinfo."""
    if "noatime" in options:
        put = linux.MOUNT_ATTR_NOATIME
    elif "relatime" in options:
        put = linux.MOUNT_ATTR_RELATIME
    else:
        put = linux.MOUNT_ATTR_STRICTATIME
    return put | (linux.MOUNT_ATTR_NODIRATIME if "nodiratime" in options else 0)


class AccessTimes:
    """Follows the flags of one mount. `fileno` is readable when some mount of the namespace has changed:
    mount(2) remounts without asking a daemon."""

    def __init__(self, clone: int, entry: MountPoint) -> None:
        """`clone` is the descriptor of upper's private mount, which stays the caller's."""
        self._clone = clone
        self._mount = entry.mount_id
        self._lock = threading.Lock()
        self._now: int | None = None
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        # The table can always be read; that it has changed is told as an exception, which `selectors` lacks.
        self._changed = select.epoll()
        self._changed.register(self._table, select.EPOLLPRI)
        self._set(entry.options)

    def fileno(self) -> int:
        return self._changed.fileno()

    def follow(self) -> None:
        """Take over what the mount has now. Any thread."""
        with self._lock:
            if self._clone >= 0 and (options := options_of(self._mount)) is not None:
                self._set(options)

    def _set(self, options: tuple[str, ...]) -> None:
        wanted = attributes(options)
        if wanted == self._now:
            return
        try:
            linux.set_access_times(self._clone, wanted)
        except OSError as error:
            # In a user namespace the flags of what was mounted outside of it are locked.
            logger.info("access times are set as upper's own mount says: %s", error.strerror)
        self._now = wanted

    def close(self) -> None:
        """Let go; `follow` does nothing after it."""
        with self._lock:
            self._clone = -1
        self._changed.close()
        os.close(self._table)
