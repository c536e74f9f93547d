"""One command meets one fault: its answer, the store after it, and the same command once more."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from testing.faults.calls import Fault, planted
from tests.faults.commands import Command, archives, run
from tests.overlay.rig import descriptors, leaked
from tests.overlay.trees import disk
from unionfs.container.record import containers
from unionfs.image import index, layer_record
from unionfs.image.store import Store
from unionfs.image.verify import Verification

State = dict[str, Any]


class Output(io.StringIO):
    """A standard stream that is kept."""

    def reconfigure(self, **_: object) -> None:
        """What `main` asks of the true one."""


class CommandRun:
    """The stores of one command, made anew for each fault."""

    def __init__(self, base: Path, command: Command) -> None:
        self.base = base
        self.command = command
        self.problems: list[str] = []
        self.faults = 0
        self.pristine = base / "pristine"
        self.place = base / "place"
        self.pristine.mkdir()
        archives(self.pristine)
        command.prepare(self.pristine)
        self._enter(self.pristine)
        for words in command.first:
            assert self._run(words)[0] == 0, words
        self._restore()
        self.before = self._state()
        status, error = self._run(command.words)
        assert status == 0, error
        self.after = self._state()

    def _enter(self, place: Path) -> None:
        os.chdir(place)
        os.environ["PYUNIONFS_STORE"] = str(place / "store")

    def _restore(self) -> None:
        os.chdir(self.base)
        if self.place.exists():
            shutil.rmtree(self.place)
        # A copy by cp: with owners, hard links and all attributes.
        os.spawnlp(os.P_WAIT, "cp", "cp", "-a", str(self.pristine), str(self.place))
        self._enter(self.place)

    def _run(self, words: tuple[str, ...]) -> tuple[int, str]:
        out, error = Output(), Output()
        saved = sys.stdin
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = run(words)
        sys.stdin = saved
        return status, error.getvalue()

    def _state(self) -> State:
        """What users see of the store and of the layers beside it."""
        found: State = {}
        if (self.place / "store").exists():
            store = Store(self.place / "store")
            found["names"] = sorted(tag.familiar for each in index.images(store) for tag in each.tags)
            found["images"] = len(index.images(store))
            found["containers"] = sorted(
                (each.name, str(sorted(disk(each.upper).items()))) for each in containers(store)
            )
        if (self.place / "upper").exists():
            found["upper"] = disk(self.place / "upper")
        return found

    # --- with a fault ----------------------------------------------------------------------------

    def one(self, fault: Fault) -> bool:
        """The command with one fault; False where it has fewer calls than that."""
        self._restore()
        start, threads = descriptors(), set(threading.enumerate())
        what = f"{self.command.name}: {errno.errorcode.get(fault.code or 0, 'short')} at call {fault.at}"
        status, error = -1, ""
        try:
            with planted(fault):
                status, error = self._run(self.command.words)
        except Exception as failure:
            self.problems.append(f"{what} ({fault.reached}): no error line but {failure!r}")
        if fault.reached is None:
            return False
        self.faults += 1
        what += f" ({fault.reached}{', and all after' if fault.stays else ''}; {status}: {error.strip()!r})"
        gc.collect()  # what only an exception still holds
        if left := leaked(start):
            self.problems.append(f"{what}: descriptors leaked: {left}")
        if more := set(threading.enumerate()) - threads:
            self.problems.append(f"{what}: threads are left: {more}")
        try:
            self._judge(fault, status, error, what)
        except Exception as failure:
            self.problems.append(f"{what}: then {failure!r}")
        return True

    def _judge(self, fault: Fault, status: int, error: str, what: str) -> None:
        reports = self.command.words[0] == "check"  # what it cannot look at, it lists with what it finds
        if status not in (0, -1) and not reports and not error.startswith("pyunionfs: "):
            self.problems.append(f"{what}: no error line")
        if status != 0 and fault.code is None:
            self.problems.append(f"{what}: a short read or write fails it")
        state = self._state()
        allowed = [self.after] if status == 0 else [self.before, self.after]
        if not self.before and status != 0:
            allowed.append({"names": [], "images": 0, "containers": []})
        if self.command.partly and status != 0 and self._is_between(state):
            allowed.append(state)
        if state not in allowed:
            self.problems.append(f"{what}: it is {_changed(state, self.before, self.after)}")
        self._whole(what)
        if state != self.after:
            status, error = self._run(self.command.words)
            if status != 0:
                self.problems.append(f"{what}: once more, {status}: {error}")
            elif self._state() != self.after:
                self.problems.append(f"{what}: once more, it is {self._state()}")
            self._whole(f"{what}: once more")

    def _is_between(self, state: State) -> bool:
        """Whether of several things that go, some are gone and the others are as they were."""
        if "upper" in state:
            upper, before, after = (each["upper"] for each in (state, self.before, self.after))
            return bool(after.items() <= upper.items() <= before.items())
        names, before, after = (each["names"] for each in (state, self.before, self.after))
        return set(after) <= set(names) <= set(before) and state["images"] == len(names)

    def _whole(self, what: str) -> None:
        """All of the store can be read, and nothing half stays in it after the next sweep."""
        if not (self.place / "store").exists():
            return
        store = Store(self.place / "store")
        with store.in_use():
            found = [each for each in Verification(store).run() if "cannot be compared" not in each.problem]
            self.problems += [f"{what}: {each.what}: {each.problem}" for each in found]
        known = {layer.path.parent.name for layer in layer_record.all_layers(store)}
        stray = {path.name for path in store.trees.iterdir()} - known
        if len(stray) > 3:
            self.problems.append(f"{what}: trees without a layer: {stray}")
        store.sweep()
        odd = [path.name for path in store.ingest.iterdir() if not path.name.startswith("blob-")]
        if odd:
            self.problems.append(f"{what}: what is half stays in ingest: {odd}")


def _changed(now: State, before: State, after: State) -> str:
    return "; ".join(
        f"{key}: {value} (was {before.get(key)}, to be {after.get(key)})"
        for key, value in now.items()
        if value != after.get(key)
    )[:600]
