"""INTERRUPT for requests that wait for slow work: EINTR for callers that are being killed, and no others.

overlayfs's copy-up is not interrupted by other signals, and few programs expect EINTR of a rename. The kernel
sends INTERRUPT for the first signal only, so an interrupted caller is checked again for as long as it waits.
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

_POLL_INTERVAL = 0.1
_SIGKILL_BIT = 1 << 8


class Interrupts:
    """Replies EINTR to requests in `waiting`, which is the server's and guarded by the server's lock."""

    __slots__ = ("_interrupted", "_lock", "_polling", "_reply_error", "_waiting", "stopped")

    def __init__(
        self,
        lock: threading.Lock,
        waiting: Mapping[Task, list[bytes]],
        reply_error: Callable[[int, int], None],
    ) -> None:
        self._lock = lock
        self._waiting = waiting
        self._reply_error = reply_error
        self._interrupted: set[int] = set()
        self._polling = False
        self.stopped = False

    def add(self, unique: int) -> None:
        """The kernel has sent INTERRUPT for this request; the lock is held."""
        self._interrupted.add(unique)
        self._reply_to_killed()
        if self._interrupted and not self._polling:
            try:
                threading.Thread(target=self._poll, name="signals", daemon=True).start()
            except RuntimeError as error:
                log.error(
                    "INTERRUPT: starting a thread failed: %s; SIGKILL may not end a waiting call", error
                )
            else:
                self._polling = True

    def _poll(self) -> None:
        while True:
            time.sleep(_POLL_INTERVAL)
            with self._lock:
                if not self.stopped:
                    self._reply_to_killed()
                if self.stopped or not self._interrupted:
                    self._polling = False
                    return

    def _reply_to_killed(self) -> None:
        """Reply EINTR for killed callers; drop completed requests."""
        left = set()
        for requests in self._waiting.values():
            for request in requests[:]:
                header = IN_HEADER.unpack_from(request)
                unique, pid = header[2], header[6]
                if unique not in self._interrupted:
                    continue
                if sigkill_pending(pid):
                    requests.remove(request)
                    self._reply_error(unique, errno.EINTR)
                else:
                    left.add(unique)
        self._interrupted = left


def sigkill_pending(pid: int) -> bool:
    """Whether a fatal signal is about to end a process: each of its threads then has a SIGKILL pending."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith((b"SigPnd:", b"ShdPnd:")) and int(line[7:], 16) & _SIGKILL_BIT:
                    return True
    except OSError:
        pass  # not visible, of another PID namespace (0), say: nothing is known of its signals
    return False
