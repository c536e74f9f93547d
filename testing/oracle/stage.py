"""One side of a case: its directories, its mount, its worker, and the layers that a case starts from.

Both sides get the same layers, built apart; layers that overlayfs itself is to have written are made by
kernel mounts on both. Must not compare anything: `compare.py` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from testing.oracle import layers, snapshot
from testing.oracle.case import DATA, Case, Op, Stack
from testing.oracle.operations import CHANGES_NOTHING, Outcome
from testing.oracle.places import GROUPS, HERE, UID, Places
from testing.oracle.sides import Kernel, Side, Union
from testing.oracle.worker import NoAnswerError, Worker
from testing.oracle.workload import Workload

STACK_OPS = 25


class OracleError(Exception):
    """The oracle itself is wrong: the reference does not agree with itself."""


@dataclass(frozen=True)
class Ground:
    """Where cases are tried: a directory on upper's filesystem, and one on another."""

    upper_fs: Path
    other_fs: Path
    places: Places = HERE


class Stage:
    """One side's directories, mount and worker."""

    def __init__(self, name: str, side: Side, case: Case, ground: Ground) -> None:
        self.name = name
        self.side = side
        self.case = case
        if case.config.own != (ground.places is not HERE):
            raise OracleError("an ordinary user's own union, and only that, needs places of the user's own")
        self.base = ground.upper_fs / name
        self.other = ground.other_fs / name
        for directory in (self.base, self.other):
            directory.mkdir()
        self.union = Union(
            tuple(reversed([self._layer(number) for number in range(case.lowers)])),
            self._made(self.base / "upper"),
            self._made(self.base / "work"),
            self._made(self.base / "merged"),
            tuple(self._data(number) for number in DATA if case.config.data),
            ground.places,
        )
        # All now, and closed in the other order: each has inherited the connections of those before.
        places = dict.fromkeys((ground.places.kernel, ground.places.fuse))
        self._workers = {place: Worker(place) for place in places}
        self.worker = next(iter(self._workers.values()))
        """That of what was mounted last."""

    def close(self) -> None:
        for worker in reversed(self._workers.values()):
            worker.close()

    def _made(self, path: Path) -> Path:
        path.mkdir()
        if self.case.config.own:
            os.chown(path, UID, GROUPS[0])
        return path

    def _layer(self, number: int) -> Path:
        return self._made(
            (self.other if self.case.stacks[number].elsewhere else self.base) / f"layer{number}"
        )

    def _data(self, number: int) -> Path:
        """One of the data-only layers: the first beside upper, the second on the other filesystem."""
        return self._made((self.base if number == DATA[0] else self.other) / f"data{-number}")

    def lower(self, number: int) -> Path:
        return self.union.lowers[self.case.lowers - 1 - number]

    @contextmanager
    def mounted(self, side: Side, union: Union, options: list[str]) -> Iterator[None]:
        """Mount with the worker inside."""
        with side.mount(union, options):
            self.worker = self._workers[side.place(union.places)]
            try:
                self.worker.enter(union.merged)
                yield
                self.worker.leave()
            except BaseException as error:
                if isinstance(error, NoAnswerError):
                    side.cut_off()
                self.worker.close()
                raise

    # Making layers ----------------------------------------------------------------------------------------

    def build(self) -> Case:
        """Put the layers on disk; returns the case with the operations that this took."""
        case = self.case
        stacks: list[Stack] = []
        for number, directory in zip(DATA, self.union.data, strict=False):
            layers.build([entry for entry in case.entries if entry.layer == number], directory)
        for number in range(case.lowers):
            directory = self.lower(number)
            layers.build([entry for entry in case.entries if entry.layer == number], directory)
            stack = case.stacks[number]
            if number and (stack.ops or (not case.ops and layers.is_stacked(case, number))):
                work = self._made(directory.parent / f"work{number}")
                below = tuple(self.lower(index) for index in range(number - 1, -1, -1))
                union = replace(self.union, lowers=below, upper=directory, work=work)
                stack = self._stack_ops(number, stack, union, index=False)
            if case.config.own:
                layers.keep_in_reach(directory)
            stacks.append(stack)
        layers.build([entry for entry in case.entries if entry.layer == -1], self.union.upper)
        stack = case.stacks[-1]
        if stack.ops or (not case.ops and layers.is_stacked(case, case.lowers)):
            stack = self._stack_ops(case.lowers, stack, self.union, index=case.config.index)
        self.case = replace(case, stacks=(*stacks, stack))
        return self.case

    def _stack_ops(self, number: int, stack: Stack, union: Union, *, index: bool) -> Stack:
        config = self.case.config
        redirect = not config.own and (stack.redirect or config.metacopy)
        config = replace(config, redirect=redirect, index=index)
        is_upper = number == self.case.lowers
        with self.mounted(Kernel(), union, config.options()):
            if stack.ops:
                for op in stack.ops:
                    outcome = self.worker.perform(op)
                    if outcome[0] == "ok" and op.name not in CHANGES_NOTHING:
                        # As when they were drawn: what has been looked up counts (see `own_rules.NewLinks`).
                        self.worker.tree()
                return stack
            workload = Workload(
                f"{self.case.seed} stack {number} {self.case.config}",
                links=is_upper or self.case.config.index,
                own=self.case.config.own,
            )
            return replace(stack, ops=tuple(op for op, _ in draw(self.worker, workload, STACK_OPS)))

    # The comparison's operations ----------------------------------------------------------------------------

    @contextmanager
    def union_mounted(self, side: Side | None = None) -> Iterator[None]:
        with self.mounted(side or self.side, self.union, self.case.config.options()):
            yield

    def layer_fingerprints(self) -> dict[str, object]:
        lowers = (*self.union.lowers, *self.union.data)
        return {lower.name: snapshot.layer_fingerprint(os.fsencode(lower)) for lower in lowers}

    def litter(self) -> list[str]:
        return sorted(os.listdir(self.union.work / "work"))


def draw(worker: Worker, workload: Workload, count: int) -> Iterator[tuple[Op, Outcome]]:
    workload.show(worker.tree())
    for _ in range(count):
        op = workload.draw()
        outcome = worker.perform(op)
        yield op, outcome
        if outcome[0] == "ok" and op.name not in CHANGES_NOTHING:
            workload.show(worker.tree())
