"""Copying up ahead: what will probably be changed next is prepared in work before an operation needs it.

`chmod -R` and its like change one file of a directory after the other, and what takes long each time is that
the data must be on disk before the copy appears. Preparing a copy works on an immutable lower and a private
file, so a worker may do it in vain. Nothing here commits: a prepared copy waits for the change that needs it,
or is discarded. It must never make an operation wait that would not have waited anyway, nor fail one.
"""

from __future__ import annotations

import itertools
import stat
import sys
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Protocol

from unionfs.overlay.copy_data import INLINE
from unionfs.overlay.inode import Directory, File

_STREAK = 4
"""So many copy-ups in one directory, one after the other, are taken for the beginning of many."""
_STREAK_MOST = 64
_BATCH = 4
_WINDOW = 16
"""Copies that wait at most, and so what is done in vain at most."""
_LOOKED_AT = 64
"""Names that are looked at for one batch."""


class TwoStepCopy(Protocol):
    """A copy-up of one file (`copy_up.FileCopyUp`), whose slow part is done in two steps."""

    size: int

    def prepare(self) -> None:
        """Make the complete object; any thread. May raise OSError."""

    def write_out_data(self) -> None:
        """Have its data on disk; any thread, after `prepare`. May raise OSError."""

    def finish(self, error: BaseException | None) -> None:
        """Commit, or with *error* clear away; state thread only. May raise OSError."""

    def abandon(self) -> None:
        """Clear away without a commit; state thread only."""


Make = Callable[[File], TwoStepCopy]


class Copy:
    """One copy that is prepared ahead. Also the task of an operation that comes while a worker is at it."""

    __slots__ = ("_lock", "done", "error", "inode", "task")

    def __init__(self, inode: File, task: TwoStepCopy) -> None:
        self.inode = inode
        self.task = task
        self.done = False
        self.error: BaseException | None = None
        self._lock = Lock()

    def claim(self) -> bool:
        """Claim it, to prepare it or so that no worker does; False if it is claimed already. Any thread."""
        return not self.done and self._lock.acquire(blocking=False)

    def prepared(self, error: BaseException | None) -> None:
        """The worker that has claimed it is done with it."""
        self.error = error
        self.done = True
        self._lock.release()

    def run(self) -> None:
        with self._lock:
            if self.error is not None:
                raise self.error

    def finish(self, error: BaseException | None) -> None:
        self.task.finish(error)


class Batch:
    """Several copies for one worker: their data is on its way to disk together."""

    __slots__ = ("_copies",)

    def __init__(self, copies: list[Copy]) -> None:
        self._copies = copies

    def run(self) -> None:
        begun = []
        for copy in self._copies:
            if copy.claim():
                try:
                    copy.task.prepare()
                except BaseException as error:
                    copy.prepared(error)
                else:
                    begun.append(copy)
        for copy in begun:
            failure: BaseException | None = None
            try:
                copy.task.write_out_data()
            except BaseException as error:
                failure = error
            copy.prepared(failure)


class CopyUpPrefetch:
    """What is prepared, in the one directory where copy-ups follow each other. State thread only."""

    __slots__ = ("_directory", "_discarded", "_needed", "_ready", "_streak", "_upcoming", "_was_right")

    def __init__(self) -> None:
        self._directory: Directory | None = None
        self._streak = 0
        self._needed = _STREAK
        self._was_right = False
        self._ready: dict[File, Copy] = {}
        # The names that come after those that are prepared.
        self._upcoming: Iterator[bytes] = iter(())
        # Discarded while a worker is at them.
        self._discarded: list[Copy] = []

    def take(self, inode: File) -> Copy | None:
        """The copy of *inode* that is, or is being, prepared; the caller finishes or discards it."""
        copy = self._ready.pop(inode, None)
        if copy is None:
            return None
        if copy.claim():
            copy.task.abandon()  # no worker has come to it yet: the operation is quicker alone
            return None
        if copy.done and copy.error is not None:
            copy.task.abandon()  # the caller will see for itself
            return None
        self._was_right = True
        return copy

    def discard(self, copy: Copy) -> None:
        """Discard a copy that no operation needs."""
        if copy.done or copy.claim():
            copy.task.abandon()
        else:
            self._discarded.append(copy)

    def note(self, directory: Directory, name: bytes, make: Make) -> list[Batch]:
        """A small file of *directory* was copied up: if it looks like many, what to have prepared next."""
        if directory is not self._directory:
            self._begin(directory)
        self._streak += 1
        if self._streak < self._needed:
            return []
        if self._streak == self._needed:
            names = iter(list(directory.children))
            for other in names:
                if other == name:
                    break
            self._upcoming = names
        batches = []
        while len(self._ready) <= _WINDOW - _BATCH:
            copies = self._next(directory, make)
            if not copies:
                break
            self._ready.update((copy.inode, copy) for copy in copies)
            batches.append(Batch(copies))
        return batches

    def _begin(self, directory: Directory | None) -> None:
        unused = list(self._ready.values())
        self._ready = {}
        for copy in unused:
            self.discard(copy)
        still = [copy for copy in self._discarded if not copy.done]
        for copy in self._discarded:
            if copy.done:
                copy.task.abandon()
        self._discarded = still
        # After a wrong guess it takes more to guess again, until a guess was right.
        if unused:
            self._needed = min(self._needed * 2, _STREAK_MOST)
        elif self._was_right:
            self._needed = _STREAK
        self._was_right = False
        self._directory = directory
        self._streak = 0
        self._upcoming = iter(())

    def _next(self, directory: Directory, make: Make) -> list[Copy]:
        copies: list[Copy] = []
        for name in itertools.islice(self._upcoming, _LOOKED_AT):
            child = directory.children.get(name)
            if not isinstance(child, File) or not _is_worth_it(child):
                continue
            try:
                task = make(child)
            except OSError:
                continue  # an operation that needs it will fail
            if 0 < task.size <= INLINE:
                copies.append(Copy(child, task))
                if len(copies) == _BATCH:
                    break
            else:
                task.abandon()
        return copies

    def give_up(self) -> None:
        """Prepare nothing from now on."""
        self._begin(None)
        self._needed = sys.maxsize

    def close(self) -> None:
        """Discard everything; no worker may be at work any more."""
        self._begin(None)
        for copy in self._discarded:
            copy.task.abandon()
        self._discarded = []


def _is_worth_it(inode: File) -> bool:
    return (
        stat.S_ISREG(inode.mode)
        and not inode.on_upper
        and not inode.metacopy
        and inode.pending is None
        and inode.lower_names is None
        and inode.prot <= 0
    )
