"""Access times of upper's files follow the flags of the union's own mount, also after a remount.

A file that is read by passthrough, or by the daemon, is read through the private mount of upper, and that
mount's flags decide. Overlayfs uses the flags of the union's mount (ovl_get_upper() clears those of its own).
Changes only that private mount, never what an administrator has mounted.
"""

from __future__ import annotations

import logging
import os
import select
import threading

from unionfs.linux import syscalls
from unionfs.linux.mount import MountPoint, options_of

logger = logging.getLogger("unionfs.daemon.lifecycle")


def mount_attr(options: tuple[str, ...]) -> int:
    """The `MOUNT_ATTR_` of a mount with these options in /proc/self/mountinfo."""
    if "noatime" in options:
        attr = syscalls.MOUNT_ATTR_NOATIME
    elif "relatime" in options:
        attr = syscalls.MOUNT_ATTR_RELATIME
    else:
        attr = syscalls.MOUNT_ATTR_STRICTATIME
    return attr | (syscalls.MOUNT_ATTR_NODIRATIME if "nodiratime" in options else 0)


class AccessTimes:
    """Follows the flags of one mount. `fileno` is readable when some mount of the namespace has changed:
    a remount sends no request to the daemon."""

    def __init__(self, clone: int, entry: MountPoint) -> None:
        """`clone` is the descriptor of upper's private mount, which the caller closes."""
        self._clone = clone
        self._mount = entry.mount_id
        self._lock = threading.Lock()
        self._current: int | None = None
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        # The table is always readable; a change is POLLPRI, which `selectors` lacks.
        self._changed = select.epoll()
        self._changed.register(self._table, select.EPOLLPRI)
        self._set(entry.options)

    def fileno(self) -> int:
        return self._changed.fileno()

    def refresh(self) -> None:
        """Apply the flags that the mount has now. Any thread."""
        with self._lock:
            if self._clone >= 0 and (options := options_of(self._mount)) is not None:
                self._set(options)

    def _set(self, options: tuple[str, ...]) -> None:
        wanted = mount_attr(options)
        if wanted == self._current:
            return
        try:
            syscalls.set_access_times(self._clone, wanted)
        except OSError as error:
            # In a user namespace the flags of what was mounted outside of it are locked.
            logger.info(
                "mount_setattr on upper's private mount failed: %s; access times follow upper's own mount",
                error.strerror,
            )
        self._current = wanted

    def close(self) -> None:
        """Close; `refresh` does nothing after it."""
        with self._lock:
            self._clone = -1
        self._changed.close()
        os.close(self._table)
