"""How the request thread waits for the next request: it busy-polls for a moment, then it sleeps in poll(2).

Waking a sleeping processor takes 30 microseconds on a virtual machine, and a request wakes two, the daemon's
and the client's; the work itself takes less than ten. A client that sends one request after the other does so
within a few microseconds of each reply, so polling without sleeping pays for as long as it mostly succeeds.
Nothing here reads a request.
"""

from __future__ import annotations

import os
import select
from time import monotonic_ns

_SPIN_NS = 100_000
"""Nanoseconds after a reply during which the next request is polled for without sleeping."""

_MAX_SCORE = 8
_MISS_COST = 2
"""A request that comes during the busy poll adds 1 to the score; a poll that times out takes this off it."""


class BusyPoll:
    """Waits on one non-blocking descriptor."""

    __slots__ = ("_poll", "_replied", "_score", "_until")

    def __init__(self, fd: int) -> None:
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        # With one processor the client could not run meanwhile.
        self._score = _MAX_SCORE if len(os.sched_getaffinity(0)) > 1 else -1
        self._replied = 0
        self._until = 0

    def replied(self) -> None:
        """A request has just been replied to."""
        self._replied = now = monotonic_ns()
        self._until = now + _SPIN_NS if self._score > 0 else 0

    def wait(self) -> None:
        """There is no request: return when there may be one."""
        until = self._until
        if until:
            if monotonic_ns() < until:
                return
            self._score = max(self._score - _MISS_COST, 0)
            self._until = 0
        self._poll.poll()
        if 0 <= self._score < _MAX_SCORE and monotonic_ns() - self._replied < _SPIN_NS:
            self._score += 1
