"""One listing a directory for everybody who reads it, where no request says when a reading begins or ends.

A place in it stays a name's place for as long as the listing is kept, and names that come stand at the end.
Nothing here reads a directory.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from unionfs.overlay.listing import DirHandle
from unionfs.overlay.super import Union

_KEPT = 256
"""Listings that are kept whatever their age."""
_AGE = 300.0
"""Seconds without a request after which one of more than those is dropped."""


class StandingListings:
    """The listings by inode number, the one used last at the end."""

    __slots__ = ("_listings", "_union")

    def __init__(self, union: Union) -> None:
        self._union = union
        self._listings: OrderedDict[int, tuple[DirHandle, float]] = OrderedDict()

    def of(self, ino: int) -> DirHandle:
        """The listing of a directory; ENOTDIR or ESTALE where there can be none."""
        listings = self._listings
        directory = self._union.directory(ino)
        now = time.monotonic()
        known = listings.pop(ino, None)
        if known is not None and known[0].directory is directory:
            handle = known[0]
        else:
            if known is not None:
                known[0].close()
            handle = DirHandle(directory)
        listings[ino] = (handle, now)
        if len(listings) > _KEPT:
            oldest = next(iter(listings))
            if now - listings[oldest][1] > _AGE:
                listings.pop(oldest)[0].close()
        return handle

    def forget(self, ino: int) -> None:
        """The kernel has dropped lookups of an inode: if it was the last, its listing goes too."""
        if ino in self._listings and not self._union.knows(ino):
            self._listings.pop(ino)[0].close()
