"""Whether READDIRPLUS returns full entries, with the attributes of names that lookups will follow for.

A full entry costs two system calls and an inode here and in the kernel. A name that is looked up later costs
a request of its own, which is several times as much; a name that is never looked up should cost neither. The
kernel's own READDIRPLUS_AUTO decides by the lookups after the last page. It loses with programs that read all
names of a directory before they look the first one up, as everything that walks trees by fts(3) does. So:

- A directory of a few names is always full: both ways are cheap, and most of them are walked.
- A large one is plain at first, and full as soon as a good part of its plain entries has been looked up.
- Read again it is full. Lookups mostly follow a second reading, and entries that the kernel still holds are
  not sent again.
- While the names of one large directory are looked up after its listing, the next directory is full at once.

Knows no request and no union; counts only.
"""

from __future__ import annotations

import time
from collections import OrderedDict

_FEW = 1000
"""Names that are no loss: full entries of so many take some 10 ms, single requests for them 50 or more."""

_MANY = 250_000
"""From so many names on their inodes are too much memory to be made unasked: only lookups make it full."""

_LOOKUP_SHARE = 4
"""A quarter of the plain entries looked up: from there on full ones would have been cheaper."""

_RECENT = 60.0
"""Seconds for which the use of one directory counts for others."""

_MAX_DIRS = 256


class DirUsage:
    """How the listings of one large directory were used.

    `plain_entries` counts the plain entries returned since the directory was last read from its beginning,
    `lookups` the lookups in it since then.
    """

    __slots__ = ("_since", "full", "lookups", "plain_entries")

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.plain_entries = 0
        self.lookups = 0
        self._since = time.monotonic()

    @property
    def lookups_follow(self) -> bool:
        return self.plain_entries > 0 and self.lookups * _LOOKUP_SHARE >= self.plain_entries

    @property
    def is_recent(self) -> bool:
        return time.monotonic() - self._since < _RECENT

    def restart(self, count: int) -> None:
        """The directory, of *count* names, is read from its beginning again."""
        if self.lookups_follow or (self.plain_entries * 2 >= count and count < _MANY):
            self.full = True
        self.plain_entries = self.lookups = 0
        self._since = time.monotonic()


class ReaddirplusPolicy:
    """Decides for all directories. `usage` is that of large ones, by inode number."""

    __slots__ = ("_last", "usage")

    def __init__(self) -> None:
        self.usage: OrderedDict[int, DirUsage] = OrderedDict()
        self._last: DirUsage | None = None

    def before_read(self, ino: int, count: int, offset: int) -> DirUsage | None:
        """The usage of a directory that is about to be read from *offset* on; None for a small one."""
        # It outlives the kernel's inode of the directory: it says how the directory is used.
        usage = self.usage
        dir_usage = usage.get(ino)
        if count <= _FEW:
            if dir_usage is not None:
                del usage[ino]
            return None
        if dir_usage is None:
            last = self._last
            dir_usage = DirUsage(full=last is not None and last.lookups_follow and last.is_recent)
            usage[ino] = dir_usage
            if len(usage) > _MAX_DIRS:
                usage.popitem(last=False)
        elif offset == 0:
            dir_usage.restart(count)
            usage.move_to_end(ino)
        elif not dir_usage.full and dir_usage.lookups_follow:
            dir_usage.full = True
        if not dir_usage.full:
            self._last = dir_usage
        return dir_usage
