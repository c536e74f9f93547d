"""How the requests' thread waits for the next request: awake for a moment, then asleep.

Waking a processor that has gone to sleep takes 30 microseconds on a virtual machine, and a request wakes two,
the daemon's and the client's; the work itself takes less than ten. A client that asks again and again does so
within a few microseconds of its answer, so it is worth while to look for its next request without sleeping,
for as long as that is mostly right. Nothing here reads a request.
"""

from __future__ import annotations

import os
import select
from time import monotonic_ns

_AWAKE = 100_000
"""Nanoseconds after an answer in which the next request is looked for without sleeping."""

_MOST = 8
_VAIN = 2
"""What a wait in vain takes from the hope that a request in time gives one of."""


class Patience:
    """Waiting on one descriptor that does not block."""

    __slots__ = ("_answered", "_hope", "_poll", "_until")

    def __init__(self, fd: int) -> None:
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        # With one processor the client could not go on meanwhile.
        self._hope = _MOST if len(os.sched_getaffinity(0)) > 1 else -1
        self._answered = 0
        self._until = 0

    def answered(self) -> None:
        """A request has just been answered."""
        self._answered = now = monotonic_ns()
        self._until = now + _AWAKE if self._hope > 0 else 0

    def wait(self) -> None:
        """There is no request: return when there may be one."""
        until = self._until
        if until:
            if monotonic_ns() < until:
                return
            self._hope = max(self._hope - _VAIN, 0)
            self._until = 0
        self._poll.poll()
        if 0 <= self._hope < _MOST and monotonic_ns() - self._answered < _AWAKE:
            self._hope += 1
