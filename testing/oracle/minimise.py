"""Makes a case that shows a difference as short as it can in the time given.

Delta debugging: drop operations, then entries of the layers, in ever smaller pieces, and keep what still
shows a difference of the same cause. Must return only cases that were seen to differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from testing.oracle.case import Case, Entry, Op
from testing.oracle.difference import Difference
from testing.oracle.places import UID

T = TypeVar("T")
Trial = Callable[[Case], Difference | None]


def minimise(case: Case, difference: Difference, trial: Trial, *, seconds: float) -> tuple[Case, Difference]:
    """The shortest case found with a difference of the same cause, and that difference."""
    search = _Search(case, difference, trial, time.monotonic() + seconds)
    if difference.index is not None:
        search.attempt(replace(case, ops=case.ops[: difference.index + 1]))
    before: tuple[int, ...] = ()
    while before != search.size() and not search.out_of_time():
        before = search.size()
        search.shrink(search.case.ops, lambda case, ops: replace(case, ops=tuple(ops)))
        for number in range(len(search.case.stacks)):
            search.attempt(_stack_setter(number)(search.case, ()))
            search.shrink(search.case.stacks[number].ops, _stack_setter(number))
        search.shrink([entry for entry in search.case.entries if entry.path], _set_inner_entries)
        search.simplify_entries()
    return search.case, search.difference


def _stack_setter(number: int) -> Callable[[Case, Sequence[Op]], Case]:
    def set_ops(case: Case, ops: Sequence[Op]) -> Case:
        stacks = list(case.stacks)
        stacks[number] = replace(stacks[number], ops=tuple(ops))
        return replace(case, stacks=tuple(stacks))

    return set_ops


def _set_inner_entries(case: Case, entries: Sequence[Entry]) -> Case:
    """The roots stay: what a layer's root says about the layer must not silently become untrue."""
    return replace(case, entries=(*[entry for entry in case.entries if not entry.path], *entries))


def _set_entries(case: Case, entries: Sequence[Entry]) -> Case:
    return replace(case, entries=tuple(entries))


class _Search:
    def __init__(self, case: Case, difference: Difference, trial: Trial, deadline: float) -> None:
        self.case = case
        self.difference = difference
        self.trial = trial
        self.deadline = deadline

    def size(self) -> tuple[int, ...]:
        return len(self.case.ops), len(self.case.entries), *(len(stack.ops) for stack in self.case.stacks)

    def out_of_time(self) -> bool:
        return time.monotonic() > self.deadline

    def attempt(self, candidate: Case) -> bool:
        """Keep the candidate if it differs by the same cause."""
        if self.out_of_time() or not candidate.ops:
            return False
        found = self.trial(candidate)
        if found is None or found.cause != self.difference.cause:
            return False
        self.case, self.difference = candidate, found
        return True

    def shrink(self, items: Sequence[T], put: Callable[[Case, Sequence[T]], Case]) -> None:
        """Drop as many of the items as possible."""
        kept = list(items)
        piece = len(kept) // 2
        while kept and piece:
            # From the end: what comes late depends on what comes early, hardly ever the other way round.
            position = len(kept)
            while position > 0:
                start = max(0, position - piece)
                candidate = kept[:start] + kept[position:]
                if self.attempt(put(self.case, candidate)):
                    kept = candidate
                position = start
            piece //= 2
        if len(kept) == 1 and self.attempt(put(self.case, [])):
            kept = []

    def simplify_entries(self) -> None:
        """Make what is left plain: a reader looks for a meaning in every odd mode and attribute."""
        owner = UID if self.case.config.own else 0
        plain: dict[str, Any] = {"xattrs": (), "uid": owner, "gid": owner}
        for position, entry in enumerate(self.case.entries):
            if not entry.path:
                continue
            mode = {"dir": 0o777, "symlink": entry.mode}.get(entry.kind, 0o644)
            for name, value in [*plain.items(), ("mode", mode)]:
                entry = self.case.entries[position]
                if getattr(entry, name) != value:
                    entries = list(self.case.entries)
                    entries[position] = entry._replace(**{name: value})
                    self.attempt(_set_entries(self.case, entries))
