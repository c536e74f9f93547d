"""What a directory remembers of its names: which layers have which, and which have changed since a listing.

Only tables: what fills them reads real directories (`readdir.py`), what changes them changes names.
"""

from __future__ import annotations

HIDDEN = 0
PRESENT = 1
ALONE = 2
"""What upper holds at a name: a whiteout, an object, or an object beside its own `.wh.` mark, which hides
what the lowers have of that name."""

_MOST_CHANGES = 10_000
"""So many changed names are kept; after more of them every name counts as changed."""


class DirCache:
    """Which layers have which name.

    `lower` maps a name to the places in `Directory.lowers` that have it, top first; a place where it is
    whited out stands as its complement (`~place`). `upper` maps a name to HIDDEN, PRESENT or ALONE.
    """

    __slots__ = ("lower", "upper")

    def __init__(self) -> None:
        self.lower: dict[bytes, tuple[int, ...]] = {}
        self.upper: dict[bytes, int] = {}

    def names(self) -> list[bytes]:
        """Every name that a caller sees."""
        upper = self.upper
        names = [name for name, there in upper.items() if there]
        names += [name for name, places in self.lower.items() if places[0] >= 0 and name not in upper]
        return names

    def is_empty(self) -> bool:
        """Whether a caller sees no name."""
        upper = self.upper
        return not any(upper.values()) and not any(
            places[0] >= 0 and name not in upper for name, places in self.lower.items()
        )


class NameChanges:
    """The names that have come, gone or become other objects since a listing was made."""

    __slots__ = ("all", "names")

    def __init__(self) -> None:
        self.names: set[bytes] = set()
        self.all = False

    def __bool__(self) -> bool:
        return self.all or bool(self.names)

    def add(self, name: bytes) -> None:
        if not self.all:
            self.names.add(name)
            if len(self.names) > _MOST_CHANGES:
                self.names.clear()
                self.all = True
