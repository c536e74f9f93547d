"""Whether a listing should hold its entries in full: attributes of names that somebody will look up next.

A full entry costs two system calls and an inode here and in the kernel, one that is looked up later a
request of its own, which is several times as much; a name that nobody asks about should cost neither. The
kernel's own READDIRPLUS_AUTO decides by what the last page brought about. It loses with programs that read
all names of a directory before they look the first one up, as all do that walk trees by fts(3). So here:

- A directory of a few names is always full: both ways are cheap, and most of them are walked.
- A large one is plain at first, and full as soon as a good part of what was shown of it is looked up.
- Read again it is full. Whoever has read it will mostly look its names up, and what the kernel holds then it
  need not be told again.
- While names of one large directory are looked up after its listing, the next one is full at once.

Knows no request and no union; counts only.
"""

from __future__ import annotations

import time
from collections import OrderedDict

_FEW = 1000
"""Names that are no loss: full entries of so many take some 10 ms, single requests for them 50 or more."""

_MANY = 250_000
"""From so many names on their inodes are too much memory to be made unasked: only lookups make it full."""

_PART = 4
"""A quarter of the plain entries looked up: from there on full ones would have been cheaper."""

_LASTING = 60.0
"""Seconds for which what was seen of one directory counts for others."""

_KEPT = 256


class Reading:
    """What came of the listings of one large directory.

    `shown` counts the plain entries that the current reading has been given, `asked` the lookups in the
    directory since it began.
    """

    __slots__ = ("_since", "asked", "full", "shown")

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.shown = 0
        self.asked = 0
        self._since = time.monotonic()

    @property
    def is_asked_about(self) -> bool:
        return self.shown > 0 and self.asked * _PART >= self.shown

    @property
    def is_recent(self) -> bool:
        return time.monotonic() - self._since < _LASTING

    def begin(self, count: int) -> None:
        """Somebody reads it from the beginning."""
        if self.is_asked_about or (self.shown * 2 >= count and count < _MANY):
            self.full = True
        self.shown = self.asked = 0
        self._since = time.monotonic()


class Worth:
    """Decides for all directories. `readings` are those of large ones, by inode number."""

    __slots__ = ("_last", "readings")

    def __init__(self) -> None:
        self.readings: OrderedDict[int, Reading] = OrderedDict()
        self._last: Reading | None = None

    def reading(self, ino: int, count: int, offset: int) -> Reading | None:
        """What is known of a directory that is about to be read from *offset* on; None for a small one."""
        # They outlive what the kernel knows of a directory: they say how it is used.
        readings = self.readings
        reading = readings.get(ino)
        if count <= _FEW:
            if reading is not None:
                del readings[ino]
            return None
        if reading is None:
            last = self._last
            reading = Reading(full=last is not None and last.is_asked_about and last.is_recent)
            readings[ino] = reading
            if len(readings) > _KEPT:
                readings.popitem(last=False)
        elif offset == 0:
            reading.begin(count)
            readings.move_to_end(ino)
        elif not reading.full and reading.is_asked_about:
            reading.full = True
        if not reading.full:
            self._last = reading
        return reading
