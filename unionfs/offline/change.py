"""Changes as plain data, their totals, and what could not be read.

Knows no layer and no mark; `by_marks.py` and `by_lowers.py` make these.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Literal

Kind = Literal["A", "C", "D"]
"""Added, changed or deleted, in the letters of `docker diff`."""

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def type_name(mode: int) -> str:
    """What an object of this `st_mode` is, in a word or two."""
    return _TYPES[stat.S_IFMT(mode)]


@dataclass(frozen=True, slots=True)
class Change:
    """One path that is not in the union as it is in the lowers.

    `path` is absolute from the union's root. `type` is what is there now (of a deletion: what was; None where
    it is not known). `size` is the length in bytes of a regular file or symlink (else None), `disk` how
    many bytes the object occupies in upper. `in_upper` says of a regular file whether its data is in upper;
    it is not for a metacopy, and for a lower's file in a directory that was renamed. `source` is where the
    lowers have the object, if that is another path. `differs` says in which respects a changed object does,
    None where the lowers were not read; it is empty for a directory in which only something below has
    changed. `old_size` is the size in the lowers. `unlisted_links` counts the object's further names that
    only lowers hold, and which show it as changed all the same (`index=on`). `number` is (st_dev, st_ino) of
    the object in upper: paths that share one are one file.
    """

    kind: Kind
    path: bytes
    type: str | None = None
    size: int | None = None
    disk: int = 0
    in_upper: bool | None = None
    source: bytes | None = None
    differs: tuple[str, ...] | None = None
    old_size: int | None = None
    unlisted_links: int = 0
    number: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A path that could not be read, and why. What is below it is not known either."""

    path: bytes
    error: OSError


class Totals:
    """How much has changed. The sizes and the space of a file with several names count once."""

    __slots__ = ("_known", "added", "added_size", "changed", "changed_size", "deleted", "disk")

    def __init__(self) -> None:
        self.added = self.changed = self.deleted = 0
        self.added_size = self.changed_size = self.disk = 0
        self._known: set[tuple[int, int]] = set()

    def add(self, change: Change) -> None:
        if change.kind == "D":
            self.deleted += 1
            return
        size, disk = change.size or 0, change.disk
        if change.number is not None and change.type != "directory":
            if change.number in self._known:
                size = disk = 0
            self._known.add(change.number)
        self.disk += disk
        if change.kind == "A":
            self.added += 1
            self.added_size += size
        else:
            self.changed += 1
            self.changed_size += size

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")}
