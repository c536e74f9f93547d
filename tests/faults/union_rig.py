"""One operation of a union meets one fault: what must be so then, and after it.

The union is asked by path, without a mount. What is compared leaves out times that are those of the run.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from testing.faults.calls import Fault, planted
from tests.faults.operations import Operation, layers
from tests.overlay.rig import Stack, View, descriptors, leaked
from tests.overlay.trees import disk

_NOW = re.compile(r" 1[7-9]\d{17}\b| [2-9]\d{18}\b")
"""A time that is not one of the tree's own: those are of 2001."""

_LINKS = re.compile(r" x\d+")
"""The link count of a directory, which is 1 from its copy-up on: that may be all that was done."""
_TIME = re.compile(r" (now|1000000000123456789)\b")

Seen = dict[str, str]


def seen(view: View) -> Seen:
    """What callers see, attributes included."""
    found = {}
    for path, line in view.tree().items():
        names = view.listxattr(path)
        values = [(name, view.getxattr(path, name)) for name in names]
        if line.startswith("dir "):
            line = _LINKS.sub("", line)
        found[path] = f"{_NOW.sub(' now', line)} {values or ''}"
    return found


class Run:
    """The stacks of one operation, made anew for each fault."""

    def __init__(self, base: Path, operation: Operation) -> None:
        self.base = base
        self.operation = operation
        self.problems: list[str] = []
        self.faults = 0
        self.before, self.after = self._clean()
        self.fresh = (self._remounted(lambda view: None), self._remounted(operation.run))

    def _stack(self) -> Stack:
        where = self.base / "stack"
        if where.exists():
            shutil.rmtree(where)
        where.mkdir()
        stack = Stack(where)
        layers(stack)
        return stack

    def _start(self, stack: Stack) -> View:
        view = stack.open(**self.operation.options)
        self.operation.first(view)
        return view

    def _clean(self) -> tuple[Seen, Seen]:
        with self._start(self._stack()) as view:
            before = seen(view)
        with self._start(self._stack()) as view:
            self.operation.run(view)
            after = seen(view)
            view.forget_all()
            self.inodes = view.union.stats()["inodes"]
        return before, after

    def _remounted(self, act: Callable[[View], object]) -> Seen:
        stack = self._stack()
        with self._start(stack) as view:
            act(view)
        with stack.open(**self.operation.options) as view:
            return seen(view)

    # --- with a fault ----------------------------------------------------------------------------

    def calls(self) -> int:
        """How many calls the operation has."""
        fault = Fault(1 << 30)
        with self._start(self._stack()) as view, planted(fault):
            self.operation.run(view)
        return fault.count

    def all_of(self, code: int | None, *, stays: bool = False) -> int:
        """Plant the fault at every call, one after the other; returns at how many it happened."""
        at = 1
        while self.one(Fault(at, code, stays)):
            at += 1
        return at - 1

    def one(self, fault: Fault) -> bool:
        """The operation with one fault; False where it has fewer calls than that."""
        start = descriptors()
        stack = self._stack()
        lowers = [disk(lower) for lower in stack.lowers]
        view = self._start(stack)
        failure = self._with(view, fault)
        if fault.reached is None:
            view.close()
            return False
        self.faults += 1
        what = f"{self.operation.name}: {errno.errorcode.get(fault.code or 0, 'short')} at call {fault.at}"
        what += f" ({fault.reached}{', and all after' if fault.stays else ''})"
        try:
            self._look(view, stack, fault, failure, what)
        except Exception as error:
            self.problems.append(f"{what}: then {error!r}")
        try:
            view.close()
        except Exception as error:
            self.problems.append(f"{what}: the end of the union: {error!r}")
        try:
            self._look_again(stack, fault, what)
        except Exception as error:
            self.problems.append(f"{what}: a fresh union: {error!r}")
        if [disk(lower) for lower in stack.lowers] != lowers:
            self.problems.append(f"{what}: a lower has changed")
        if left := leaked(start):
            self.problems.append(f"{what}: descriptors leaked: {left}")
            _close_all(set(left))
        return True

    def _with(self, view: View, fault: Fault) -> BaseException | None:
        try:
            with planted(fault):
                self.operation.run(view)
        except Exception as error:
            return error
        return None

    def _look(self, view: View, stack: Stack, fault: Fault, failure: BaseException | None, what: str) -> None:
        if failure is not None and (not isinstance(failure, OSError) or not failure.errno):
            self.problems.append(f"{what}: no errno but {failure!r}")
        if fault.code is None and failure is not None:
            self.problems.append(f"{what}: a short read or write fails it: {failure!r}")
        now = seen(view)
        is_before = failure is not None and _same(now, self.before, fault)
        is_after = _same(now, self.after, fault)
        if not is_before and not is_after:
            self.problems.append(
                f"{what} ({failure!r}): it shows {_difference(now, self.before, self.after)}"
            )
        view.forget_all()
        again = seen(view)
        if again != now:
            self.problems.append(
                f"{what} ({failure!r}): when all is forgotten {_difference(again, now, now)}"
            )
        for job in view.union.take_background_jobs():
            job.run()
        if not fault.stays and fault.reached not in ("unlink", "rmdir"):
            names = [name for name in stack.work_names() if name not in self._kept(view)]
            if names:
                self.problems.append(f"{what} ({failure!r}): left in work: {names}")
        if (is_before and not is_after) or self.operation.reads:
            self.operation.run(view)
            then = seen(view)
            if not _same(then, self.after, fault):
                self.problems.append(
                    f"{what}: once more, it shows {_difference(then, self.after, self.after)}"
                )
        view.forget_all()
        stats = view.union.stats()
        if stats["open_files"] or stats["inodes"] > self.inodes:
            self.problems.append(f"{what}: not let go: {stats}, not {self.inodes} inodes")

    @staticmethod
    def _kept(view: View) -> list[str]:
        """What stays in work for a reason: the whiteout of which others are links."""
        work = view.union.fs.work
        assert work is not None
        return [] if work._whiteout is None else [os.fsdecode(work._whiteout)]

    def _look_again(self, stack: Stack, fault: Fault, what: str) -> None:
        """What the next union on these layers shows, after the operation was done again."""
        if os.path.exists(stack.work / "work") and stack.work_names():
            self.problems.append(f"{what}: left in work after the end: {stack.work_names()}")
        with stack.open(**self.operation.options) as view:
            now = seen(view)
        if not _same(now, self.fresh[1], fault):
            self.problems.append(f"{what}: a fresh union shows {_difference(now, *self.fresh)}")

    def remounted(self, fault: Fault) -> bool:
        """The fault, then the end, and at once a fresh union: it shows the tree before or after."""
        stack = self._stack()
        view = self._start(stack)
        failure = self._with(view, fault)
        view.close()
        if fault.reached is None:
            return False
        self.faults += 1
        what = f"{self.operation.name}: code {fault.code} at call {fault.at} ({fault.reached}), {failure!r}"
        with stack.open(**self.operation.options) as view:
            now = seen(view)
            if self._only_links_went(now, fault):
                return True
            if not any(_same(now, wanted, fault) for wanted in self.fresh):
                self.problems.append(f"{what}: a fresh union shows {_difference(now, *self.fresh)}")
            elif _same(now, self.fresh[0], fault):
                self.operation.run(view)
                then = seen(view)
                # Its link count is that of a mount which has seen the other names.
                if not any(_same(then, wanted, fault) for wanted in (self.fresh[1], self.after)):
                    self.problems.append(
                        f"{what}: done by a fresh union, it shows {_difference(seen(view), *self.fresh)}"
                    )
        return True

    def _only_links_went(self, now: Seen, fault: Fault) -> bool:
        """Whether names of one lower file are apart, which a copy-up could not link; all else is as before.

        Without an index overlayfs leaves them so always.
        """
        if self.operation.options.get("index") or _same(now, self.fresh[0], fault):
            return False
        return _same(_without_links(now), _without_links(self.fresh[0]), fault)


def _same(now: Seen, wanted: Seen, fault: Fault) -> bool:
    """Whether two trees are the same, but for times that only the failed call could put back.

    Those of a directory in which a copy-up places something, say, and of a file whose data is completed:
    overlayfs goes on without, too.
    """
    if fault.code == errno.EACCES:
        # A caller whose process may not be looked at counts as one without capabilities: set-id bits go.
        now, wanted = _without_set_ids(now), _without_set_ids(wanted)
    if now == wanted:
        return True
    if not fault.stays and fault.reached != "utime":
        return False
    return now.keys() == wanted.keys() and all(
        line == wanted[path]
        or (_TIME.search(line) is not None and _TIME.sub("", line) == _TIME.sub("", wanted[path]))
        for path, line in now.items()
    )


def _without_set_ids(found: Seen) -> Seen:
    return {path: line.replace(" 4755 ", " 755 ") for path, line in found.items()}


def _without_links(found: Seen) -> Seen:
    return {path: _LINKS.sub("", line) for path, line in found.items()}


def _difference(now: Seen, before: Seen, after: Seen) -> str:
    """Where it is neither: the lines that differ from both."""
    paths = sorted(now.keys() | before.keys() | after.keys())
    lines = [
        f"{path}: {now.get(path)} (was {before.get(path)}, to be {after.get(path)})"
        for path in paths
        if now.get(path) != after.get(path)
    ]
    return "; ".join(line[:300] for line in lines[:4])


def _close_all(targets: set[str]) -> None:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") in targets:
                os.close(int(name))
        except OSError:
            continue
