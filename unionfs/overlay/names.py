"""The further names of a file: any number of them, and no step that takes longer for their number.

A set would do but for one thing: to look at any one of it passes over the places of all that are gone, so
that to remove a file of 60,000 links takes a time that grows with their square. Nothing here knows what a
name means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Bag(Generic[T]):
    """Things that are there once each, in no order; adding, dropping and taking any takes one step."""

    __slots__ = ("_all", "_at")

    def __init__(self) -> None:
        self._all: list[T] = []
        self._at: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, one: T) -> bool:
        return one in self._at

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    def add(self, one: T) -> None:
        """Add it, unless it is there."""
        if one not in self._at:
            self._at[one] = len(self._all)
            self._all.append(one)

    def discard(self, one: T) -> None:
        """Drop it, if it is there; the last takes its place."""
        place = self._at.pop(one, None)
        if place is None:
            return
        last = self._all.pop()
        if place < len(self._all):
            self._all[place] = last
            self._at[last] = place

    def pop(self) -> T:
        """Drop one of them and return it; IndexError when there is none."""
        one = self._all.pop()
        del self._at[one]
        return one
