"""Who may be in a union: clients, each for the length of a job, or the conductor alone.

Made before the processes are forked that share it. Must never keep a client in: whoever closes a gate waits
until all have left by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.context import ForkContext


@dataclass(frozen=True)
class Age:
    """What has happened to a union so far."""

    kills: int
    uppers: int
    """How many uppers it has had: with a new one all work in it starts anew."""


class Gate:
    """The gate of one union, closed at first."""

    def __init__(self, context: ForkContext) -> None:
        self._changed = context.Condition()
        self._open = context.Value("b", 0, lock=False)
        self._inside = context.Value("i", 0, lock=False)
        self._kills = context.Value("i", 0, lock=False)
        self._uppers = context.Value("i", 0, lock=False)
        self._batches = context.Value("i", 0, lock=False)

    def enter(self) -> Age | None:
        """Go in, to `leave` again; None where it is closed."""
        with self._changed:
            if not self._open.value:
                return None
            self._inside.value += 1
            return self._age()

    def leave(self) -> None:
        with self._changed:
            self._inside.value -= 1
            self._changed.notify_all()

    def age(self) -> Age:
        with self._changed:
            return self._age()

    def _age(self) -> Age:
        return Age(self._kills.value, self._uppers.value)

    def next_batch(self) -> int:
        """A number that no other client gets of this upper: which lower files are to be used up."""
        with self._changed:
            self._batches.value += 1
            return int(self._batches.value) - 1

    # The conductor's part -----------------------------------------------------------------------------------

    def open(self) -> None:
        with self._changed:
            self._open.value = 1

    def close(self) -> None:
        """No client comes in from now on; some may still be there."""
        with self._changed:
            self._open.value = 0

    def wait_until_empty(self, seconds: float) -> bool:
        """Whether all have left within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside.value == 0, seconds)

    def count_kill(self) -> None:
        """To be called before the kill, so that no failure comes before the reason for it."""
        with self._changed:
            self._kills.value += 1

    def count_upper(self) -> None:
        with self._changed:
            self._uppers.value += 1
            self._batches.value = 0
