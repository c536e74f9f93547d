"""Mounts, loads, kills, mounts again, and holds what is there against the journals.

Upper lives through many kills, so later rounds start from what earlier crashes left. Must tell every loss,
and must itself write nothing into the mount: what it finds is the starting point of the next round.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import platform
import random
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testing import mounts, transports
from testing.crash import load, parts
from testing.crash.model import Model, Op, data_of
from testing.oracle import snapshot

PARTS = 3
RETURN_TIMEOUT = 15.0
"""How long a call may take to return after the daemon was killed."""
MOST_WRITTEN = 100_000
"""Bytes in all journals at the latest kill: some 600 operations."""
MOMENT_TIMEOUT = 10.0
"""When the kill comes, however little has been done."""

GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.ESTALE}
"""What a call may answer when the daemon was killed under it."""

_OURS = {"passthrough", "writeback", "fsync", "coherent", "timeout", "rename_copy_bytes", "transport"}
"""Mount options that the kernel's overlayfs does not have."""

_BY_DAEMON = {"passthrough=off", "transport=pyfuse3"}
"""Mount options with which the daemon writes."""


@dataclass(frozen=True)
class Loss:
    """Something that is not as the journal says that it must be."""

    what: str
    where: str
    journal: Sequence[Op] = ()
    """All operations of this part in this round."""
    paths: Sequence[str] = ()
    """What it is about; the operations on these say most."""

    def __str__(self) -> str:
        of_paths = [op for op in self.journal if not {*self.paths}.isdisjoint(map(str, op))]
        text = f"{self.what}: {self.where}"
        for heading, operations in (
            ("operations on these names:", of_paths),
            ("last operations of this part:", self.journal[-12:]),
        ):
            if operations:
                text += f"\n  {heading}" + "".join(f"\n    {op}" for op in operations)
        return text


@dataclass
class Round:
    """One kill, as far as it went."""

    number: int
    slept: float = 0.0
    logs: list[str] = field(default_factory=list)
    """What the daemon that was killed logged, and the one that was mounted after it."""


class Rig:
    """One union that is killed again and again."""

    def __init__(
        self, base: Path, seed: str, *, options: Sequence[str] = (), lower_base: Path | None = None
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.options = list(options)
        if "redirect_dir=off" not in options:
            self.options.append("redirect_dir=on")  # the kernel's own default depends on how it was built
        self.base = base
        self.lowers = tuple((lower_base or base) / name for name in ("lower-top", "lower-bottom"))
        self.upper, self.work, self.merged = (base / name for name in ("upper", "work", "merged"))
        for directory in (*self.lowers, self.upper, self.work, self.merged):
            directory.mkdir()
        self.rounds: list[Round] = []
        self.models = {f"p{number}": self._build(f"p{number}") for number in range(PARTS)}
        self.before = [snapshot.layer_fingerprint(os.fsencode(lower)) for lower in self.lowers]
        self.operations = 0

    def _build(self, part: str) -> Model:
        model = Model(metacopy="metacopy=on" in self.options, writes_die=not by_passthrough(self.options))
        parts.build(self.rng, self.lowers, part, model)
        return model

    # A round ----------------------------------------------------------------------------------------------

    @property
    def journals(self) -> Path:
        """Where the last round's journals are; those of all rounds stay."""
        return self.base / "journals" / str(len(self.rounds))

    def kill_in_load(self) -> list[Loss]:
        """Load the mount, kill the daemon at a random moment, mount again and look."""
        now = Round(len(self.rounds) + 1)
        self.rounds.append(now)
        self.journals.mkdir(parents=True)
        context = multiprocessing.get_context("fork")
        with mounts.pyunionfs(
            self.lowers, self.upper, self.work, self.merged, options=self.options
        ) as daemon:
            top = os.open(self.merged, os.O_PATH | os.O_DIRECTORY)
            processes = [
                context.Process(target=self._load, args=(top, part, model.copy(), f"{self.rng.random()}"))
                for part, model in self.models.items()
            ]
            for process in processes:
                process.start()
            os.close(top)
            now.slept = self._random_moment()
            try:
                losses = _killed(daemon)
                losses += [loss for loss in map(_ended, processes) if loss is not None]
            finally:
                now.logs.append(daemon.log())
        return losses or self.look()

    def _random_moment(self) -> float:
        """Wait until the load has done so much, and a moment more; returns the seconds that this took.

        By the time alone a busy machine would do next to nothing before each kill.
        """
        start = time.monotonic()
        wanted = self.rng.random() ** 1.5 * MOST_WRITTEN
        while time.monotonic() - start < MOMENT_TIMEOUT:
            time.sleep(self.rng.uniform(0.001, 0.004))
            if sum(path.stat().st_size for path in self.journals.iterdir()) >= wanted:
                break
        return time.monotonic() - start

    def _load(self, top: int, part: str, model: Model, seed: str) -> None:
        # With redirect_dir=off the right answer to the rename of a merged directory is EXDEV, unless copied.
        copies = any(option.startswith("rename_copy_bytes=") for option in self.options)
        moves = copies or "redirect_dir=off" not in self.options
        load.run(top, part, model, seed, self.journals / part, directories_move=moves)

    def look(self) -> list[Loss]:
        """Mount again; everything that was answered is there, and nothing that is half."""
        losses: list[Loss] = []
        with mounts.pyunionfs(
            self.lowers, self.upper, self.work, self.merged, options=self.options
        ) as daemon:
            try:
                litter = sorted(os.listdir(self.work / "work"))
                if litter:
                    losses.append(Loss("litter in work after a mount", repr(litter)))
                for part in self.models:
                    losses += self._look_at(part)
                ours = snapshot.take(os.fsencode(self.merged))
            finally:
                self.rounds[-1].logs.append(daemon.log())
        losses += [Loss("a rule of the tree", complaint.text) for complaint in ours.complaints]
        losses += self._look_at_lowers()
        if "whiteouts=aufs" in self.options:
            return losses  # which the kernel does not know
        # The kernel's mount of the same upper must show the same tree; a mount changes nothing that counts.
        shared = kernel_options(self.options)
        with mounts.overlayfs(self.lowers, self.upper, self.work, self.merged, options=shared):
            theirs = snapshot.take(os.fsencode(self.merged))
        for path, what, left, right in snapshot.differences(theirs, ours):
            losses.append(Loss("kernel overlayfs sees another tree", f"{path} {what}: {left} here {right}"))
        return losses

    def _look_at_lowers(self) -> list[Loss]:
        now = [snapshot.layer_fingerprint(os.fsencode(lower)) for lower in self.lowers]
        return [] if now == self.before else [Loss("a lower layer was changed", str(self.lowers))]

    def _look_at(self, part: str) -> list[Loss]:
        journal = load.read_journal(self.journals / part)
        self.operations += len(journal.answered)
        if journal.error is not None and journal.error not in GONE:
            return [
                Loss(
                    f"an operation of {part} failed",
                    f"{journal.interrupted}: {journal.text}",
                    journal.answered,
                )
            ]
        before = self.models[part].copy()
        for op in journal.answered:
            before.apply(op)
        found = observe(self.merged, part)
        candidates = list(before.states(journal.interrupted)) if journal.interrupted else [before]
        for candidate in candidates:
            if not mismatches(candidate, found):
                self.models[part] = candidate
                return []
        history = [*journal.answered, ("interrupted:", *(journal.interrupted or ()), journal.text)]
        return [
            Loss(
                f"{part} is not as in state {number} of {len(candidates)}",
                wrong.text + self._where_data_differs(candidate, wrong),
                history,
                sorted({wrong.path, *(candidate.links(wrong.path) if wrong.path in candidate.paths else ())}),
            )
            for number, candidate in enumerate(candidates, 1)
            for wrong in mismatches(candidate, found)
        ]

    def _where_data_differs(self, model: Model, wrong: Mismatch) -> str:
        if wrong.what != "data":
            return ""
        expected, found = data_of(model[wrong.path].edits), (self.merged / wrong.path).read_bytes()
        at = next(
            (at for at, (left, right) in enumerate(zip(expected, found, strict=False)) if left != right),
            min(len(expected), len(found)),
        )
        return (
            f"\n  {len(expected)} bytes expected, {len(found)} found; from byte {at} on expected "
            f"{bytes(expected[at : at + 60])!r}, found {found[at : at + 60]!r}"
            f"\n  made by {model[wrong.path].edits}"
        )


def kernel_options(options: Sequence[str]) -> list[str]:
    """Those of these mount options that kernel overlayfs has, too."""
    return [option for option in options if option.partition("=")[0] not in _OURS]


def by_passthrough(options: Sequence[str]) -> bool:
    """Whether data is written by the callers themselves, which live on, and not by the daemon."""
    release = tuple(map(int, platform.release().split(".")[:2]))
    return release >= (6, 9) and transports.chosen() != "pyfuse3" and not _BY_DAEMON.intersection(options)


def _killed(daemon: mounts.Daemon) -> list[Loss]:
    try:
        daemon.kill()
    except subprocess.TimeoutExpired:
        loss = Loss("the daemon does not end after SIGKILL", stacks(daemon.pid))
        # Requests that hold threads of the daemon are given up then, so that it ends and can be cleared away.
        subprocess.run(["umount", "-f", daemon.merged], check=False)
        daemon.kill()
        return [loss]
    return []


def _ended(process: multiprocessing.process.BaseProcess) -> Loss | None:
    """Wait for a process of the load; a loss if it had to be cut off, or ended by a fault of its own."""
    process.join(RETURN_TIMEOUT)
    if process.is_alive():
        where = f"process {process.pid}, waiting in\n{stacks(process.pid or 0)}"
        process.kill()
        process.join()
        return Loss("a call did not return after the daemon was killed", where)
    if process.exitcode:
        return Loss("a process of the load failed", f"process {process.pid} exited with {process.exitcode}")
    return None


def stacks(pid: int) -> str:
    """Where each thread of a process waits in the kernel."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        try:
            lines.append(f"{task.name} {(task / 'comm').read_text()}{(task / 'stack').read_text()}")
        except OSError as error:  # it has ended meanwhile
            lines.append(f"{task.name}: {error}")
    return "\n".join(lines)


def observe(merged: Path, part: str) -> dict[str, dict[str, Any]]:
    """What the mount shows of a part, in the words of the model."""
    found: dict[str, dict[str, Any]] = {}
    groups: dict[int, list[str]] = {}
    pending = [part]
    while pending:
        path = pending.pop()
        full = merged / path
        st = os.lstat(full)
        seen: dict[str, Any] = {
            "mode": stat.S_IMODE(st.st_mode),
            "uid": st.st_uid,
            "mtime_ns": st.st_mtime_ns,
        }
        seen["xattrs"] = tuple(
            (name, os.getxattr(full, name, follow_symlinks=False))
            for name in sorted(os.listxattr(full, follow_symlinks=False))
        )
        if stat.S_ISDIR(st.st_mode):
            seen["kind"] = "dir"
            pending += [f"{path}/{name}" for name in os.listdir(full)]
        elif stat.S_ISLNK(st.st_mode):
            seen |= {"kind": "symlink", "target": os.readlink(full)}
        else:
            seen |= {"kind": "file", "size": st.st_size}
            seen["data"] = hashlib.sha256(full.read_bytes()).hexdigest()
            groups.setdefault(st.st_ino, []).append(path)
        found[path] = seen
    for names in groups.values():
        for name in names:
            found[name]["links"] = sorted(names)
    return found


@dataclass(frozen=True)
class Mismatch:
    """One thing that is not as a model says."""

    path: str
    what: str
    """An attribute, or existence."""
    text: str


def mismatches(model: Model, found: dict[str, dict[str, Any]]) -> list[Mismatch]:
    """Where what was found is not what the model says."""
    wrong = [
        Mismatch(path, "existence", f"{path} is missing")
        for path in sorted(model.paths.keys() - found.keys())
    ]
    wrong += [
        Mismatch(path, "existence", f"{path} should not be there: {found[path]}")
        for path in sorted(found.keys() - model.paths.keys())
    ]
    for path in sorted(model.paths.keys() & found.keys()):
        for what, value in _expected(model, path).items():
            seen = found[path].get(what)
            if seen != value:
                wrong.append(Mismatch(path, what, f"{path}: {what} should be {value!r}, is {seen!r}"))
    return wrong


def _expected(model: Model, path: str) -> dict[str, Any]:
    node = model[path]
    expected: dict[str, Any] = {"kind": node.kind, "uid": node.uid, "xattrs": node.xattrs}
    if node.kind != "symlink":
        expected["mode"] = node.mode
    if node.mtime_ns is not None:
        expected["mtime_ns"] = node.mtime_ns
    if node.kind == "file":
        expected |= {"size": node.size, "data": node.digest(), "links": model.links(path)}
    elif node.kind == "symlink":
        expected["target"] = node.target
    return expected


# Kills in the middle of one copy-up -----------------------------------------------------------------------


def copy_up_under_way(work: Path) -> bool:
    """Whether some temporary object in work has data in it already."""
    try:
        with os.scandir(work / "work") as entries:
            return any(
                entry.stat(follow_symlinks=False).st_blocks > 0 for entry in entries if entry.is_file()
            )
    except FileNotFoundError:
        return False
