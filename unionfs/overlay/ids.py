"""User and group ids as the union shows them and as its layers store them.

Between the two lies a map (`uidmapping`, `gidmapping`), or nothing. An id that the map lacks is shown as the
kernel's overflow id, and cannot be stored. Knows numbers and the form of ACLs; looks at no object.
"""

from __future__ import annotations

import errno
import functools
import os
import struct

from unionfs.overlay.config import IdMap

_ACL_HEADER = 4
_ACL_ENTRY = struct.Struct("<HHI")
"""Of a `system.posix_acl_*` value, as the kernel takes and gives it: tag, permissions, id."""
_ACL_USER = 0x02
_ACL_GROUP = 0x08


@functools.cache
def overflow_id(kind: str) -> int:
    """What is shown for an id that has no meaning here; *kind* is "uid" or "gid"."""
    try:
        with open(f"/proc/sys/kernel/overflow{kind}", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


class Ids:
    """The ids of one kind ("uid" or "gid"), shown and stored. Without ranges they are the same."""

    __slots__ = ("_overflow", "_ranges")

    def __init__(self, ranges: IdMap, kind: str) -> None:
        self._ranges = ranges
        self._overflow = overflow_id(kind)

    def has(self, stored: int) -> bool:
        """Whether layers may hold it as far as the map is concerned."""
        return not self._ranges or any(first <= stored < first + length for first, _, length in self._ranges)

    def shown(self, stored: int) -> int:
        """The id by which callers know *stored*; the overflow id for one outside the map."""
        for first, shown, length in self._ranges:
            if first <= stored < first + length:
                return shown + stored - first
        return self._overflow if self._ranges else stored

    def stored(self, shown: int) -> int:
        """The id that layers hold for it. EINVAL, as chown(2) answers, for one outside the map."""
        found = self._find(shown)
        if found is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found

    def stored_by(self, shown: int) -> int:
        """The id that layers hold for a maker of objects: the overflow id for one outside the map."""
        found = self._find(shown)
        return self._overflow if found is None else found

    def _find(self, shown: int) -> int | None:
        for stored, first, length in self._ranges:
            if first <= shown < first + length:
                return stored + shown - first
        return None if self._ranges else shown


def own_ids(kind: str) -> Ids:
    """The ids that our own user namespace has, as those it `has`."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return Ids(tuple((inside, inside, length) for inside, _, length in ranges), kind)


def show_acl(value: bytes, uids: Ids, gids: Ids) -> bytes:
    """A stored ACL with the ids that callers know."""
    entries = bytearray(value)
    for at in range(_ACL_HEADER, len(value) - _ACL_ENTRY.size + 1, _ACL_ENTRY.size):
        tag, permissions, number = _ACL_ENTRY.unpack_from(value, at)
        if tag in (_ACL_USER, _ACL_GROUP):
            number = (uids if tag == _ACL_USER else gids).shown(number)
            _ACL_ENTRY.pack_into(entries, at, tag, permissions, number)
    return bytes(entries)


def store_acl(value: bytes, uids: Ids, gids: Ids) -> bytes:
    """A caller's ACL with the ids that layers hold; EINVAL, as for chown(2), for one outside the map."""
    entries = bytearray(value)
    for at in range(_ACL_HEADER, len(value) - _ACL_ENTRY.size + 1, _ACL_ENTRY.size):
        tag, permissions, number = _ACL_ENTRY.unpack_from(value, at)
        if tag in (_ACL_USER, _ACL_GROUP):
            number = (uids if tag == _ACL_USER else gids).stored(number)
            _ACL_ENTRY.pack_into(entries, at, tag, permissions, number)
    return bytes(entries)
