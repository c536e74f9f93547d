"""When a request is tried again: which failures pass by themselves, how long to wait, and when to give up.

Knows no request and no response: it is asked with what failed, and sleeps or raises.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from unionfs.errors import ImageError

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be gone at the next try (RFC 9110, 15.5 and 15.6; RFC 6585 for 429)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often, and with which pauses (in seconds): each is twice the one before."""

    tries: int = 7
    first: float = 0.5
    longest: float = 20.0
    patience: float = 120.0
    """The longest `Retry-After` that is waited for."""

    def pause(self, failures: int, chance: float) -> float:
        """After the *failures*-th failure in a row; *chance*, 0 to 1, spreads those that failed together."""
        return min(self.longest, self.first * 2.0 ** (failures - 1)) * (0.5 + chance / 2)


@dataclass(slots=True)
class Attempts:
    """The tries of one request or one download. One thread's."""

    schedule: Schedule
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    _failures: int = field(default=0, init=False)

    def failed(self, reason: str, asked: float | None = None) -> None:
        """Wait before the next try. Raises ImageError where none is left.

        *asked* is what the server wants to be waited for, in seconds.
        """
        self._failures += 1
        if self._failures >= self.schedule.tries:
            raise ImageError(f"{reason}; given up after {self._failures} tries")
        pause = self.schedule.pause(self._failures, self.chance())
        if asked is not None:
            if asked > self.schedule.patience:
                raise ImageError(
                    f"{reason}; the registry asks to wait for {asked:.0f} seconds: try again then"
                )
            pause = max(pause, asked)
        self.sleep(pause)

    def progressed(self) -> None:
        """What is being done has come forward: failures before do not count."""
        self._failures = 0


def retry_after(value: str | None, now: float) -> float | None:
    """A Retry-After header in seconds: a number, or a date (RFC 9110, 10.2.3). None where there is none."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now)
