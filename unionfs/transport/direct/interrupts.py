"""Signals for those who wait for slow work: only one that kills ends the waiting.

overlayfs's copy-up is not interrupted by others, and few programs expect EINTR of a rename. The kernel tells
of the first signal only, so that who has had one is looked at again, as long as he waits.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Mapping

from unionfs.overlay.wait import Task
from unionfs.transport.direct.protocol import IN_HEADER

log = logging.getLogger(__name__)

_PAUSE = 0.1
_SIGKILL_PENDING = 1 << 8


class Interrupts:
    """Looks after the requests in `waiting`, which are the server's, under its lock."""

    __slots__ = ("_lock", "_refuse", "_signalled", "_waiting", "_watches", "stopped")

    def __init__(
        self,
        lock: threading.Lock,
        waiting: Mapping[Task, list[bytes]],
        refuse: Callable[[int, int], None],
    ) -> None:
        self._lock = lock
        self._waiting = waiting
        self._refuse = refuse
        self._signalled: set[int] = set()
        self._watches = False
        self.stopped = False

    def came(self, unique: int) -> None:
        """A signal has come for whoever sent this request; the lock is held."""
        self._signalled.add(unique)
        self._look()
        if self._signalled and not self._watches:
            try:
                threading.Thread(target=self._watch, name="signals", daemon=True).start()
            except RuntimeError as error:
                log.error("a thread cannot be started: %s", error)
            else:
                self._watches = True

    def _watch(self) -> None:
        while True:
            time.sleep(_PAUSE)
            with self._lock:
                if not self.stopped:
                    self._look()
                if self.stopped or not self._signalled:
                    self._watches = False
                    return

    def _look(self) -> None:
        """End the waiting of who is killed; who waits no more is looked at no more."""
        left = set()
        for requests in self._waiting.values():
            for request in requests[:]:
                header = IN_HEADER.unpack_from(request)
                unique, pid = header[2], header[6]
                if unique not in self._signalled:
                    continue
                if is_killed(pid):
                    requests.remove(request)
                    self._refuse(unique, errno.EINTR)
                else:
                    left.add(unique)
        self._signalled = left


def is_killed(pid: int) -> bool:
    """Whether a process is about to die of a signal: the kernel then gives each of its threads a SIGKILL."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith((b"SigPnd:", b"ShdPnd:")) and int(line[7:], 16) & _SIGKILL_PENDING:
                    return True
    except OSError:
        pass  # one that we do not see, of another PID namespace (0) say: that it dies is not known
    return False
