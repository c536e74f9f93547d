"""User and group ids as the union shows them and as its layers store them.

Between the two lies a map (`uidmapping`, `gidmapping`), or nothing. An id that the map lacks is shown as the
kernel's overflow id, and cannot be stored. Knows numbers and the form of ACLs; looks at no object.
"""

from __future__ import annotations

import errno
import functools
import os

from unionfs.linux.overflow_id import overflow_id
from unionfs.overlay.config import IdMap
from unionfs.overlay.owners import acl

_NO_ID = 0xFFFFFFFF


class Ids:
    """The ids of one kind ("uid" or "gid"), shown and stored. Without ranges they are the same."""

    __slots__ = ("_overflow", "_ranges")

    def __init__(self, ranges: IdMap, kind: str) -> None:
        self._ranges = ranges
        self._overflow = overflow_id(kind)

    def knows(self, stored: int) -> bool:
        """Whether callers know it by an id of its own."""
        return stored != _NO_ID and self.has(stored)

    def has(self, stored: int) -> bool:
        """Whether it is in the map."""
        return not self._ranges or any(first <= stored < first + length for first, _, length in self._ranges)

    def shown(self, stored: int) -> int:
        """The id by which callers know *stored*; the overflow id for one outside the map, and for none (-1),
        which is what our user namespace says in an ACL of an id that it lacks."""
        for first, shown, length in self._ranges:
            if first <= stored < first + length:
                return shown + stored - first
        return self._overflow if self._ranges or stored == _NO_ID else stored

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


@functools.cache
def _acl_overflow(kind: str) -> int | None:
    """What an ACL may name in the place of an id without meaning; None where that is no id here either.

    Owners may be such ones, but of an ACL that names an id which the mount's user namespace lacks fuse.ko
    says EINVAL, and then no caller has any right by it.
    """
    overflow = overflow_id(kind)
    return overflow if own_ids(kind).has(overflow) else None


def show_acl(value: bytes, uids: Ids, gids: Ids) -> bytes:
    """A stored ACL with the ids that callers know. One that cannot be named at all is left out."""
    changed: list[acl.Entry] = []
    for tag, permissions, number in acl.entries(value):
        if tag in (acl.USER, acl.GROUP):
            ids, kind = (uids, "uid") if tag == acl.USER else (gids, "gid")
            shown = ids.shown(number) if ids.knows(number) else _acl_overflow(kind)
            if shown is None:
                continue
            number = shown
        changed.append((tag, permissions, number))
    return acl.rebuilt(value, changed)


def store_acl(value: bytes, uids: Ids, gids: Ids) -> bytes:
    """A caller's ACL with the ids that layers hold; EINVAL, as for chown(2), for one outside the map."""
    return acl.rebuilt(
        value,
        [
            (tag, permissions, number)
            if tag not in (acl.USER, acl.GROUP)
            else (tag, permissions, (uids if tag == acl.USER else gids).stored(number))
            for tag, permissions, number in acl.entries(value)
        ],
    )
