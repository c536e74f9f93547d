"""The processes that perform operations inside one mount: two, so that there is another to lock a file.

A third one looks at whole trees: a process that closes a directory loses its record locks of it.

A process of its own for three reasons: its root directory is the mount, so that no symlink, however
strange, leads out of it; it can become another user; and when the filesystem does not answer, only this
process waits, and is cut off. Must not import or open anything after it has changed its root.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (loaded now: in the mount there is no standard library to load it from)
import multiprocessing
import os
import stat
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from testing.oracle import snapshot
from testing.oracle.case import Op
from testing.oracle.descriptor_rules import slot_of
from testing.oracle.operations import Outcome, Slots
from testing.oracle.perform import perform
from testing.oracle.places import HERE, Place
from testing.oracle.snapshot import Complaint, Snapshot
from testing.oracle.workload import Tree


class NoAnswerError(Exception):
    """The mount did not answer in time, or the worker died of what it answered."""


class Worker:
    """Performs operations in a mount, from other processes. To be closed before the mount is."""

    def __init__(self, place: Place = HERE.fuse, timeout: float = 30.0) -> None:
        self._actors = (_Actor(place, timeout), _Actor(place, timeout))
        self._onlooker = _Actor(place, timeout)
        self._all = (*self._actors, self._onlooker)

    def enter(self, merged: Path) -> None:
        """Make this mount the worker's root."""
        for actor in self._all:
            actor.ask("enter", os.fsencode(merged))

    def leave(self) -> None:
        """Close all descriptors and return to the real root, so that the mount can be unmounted."""
        for actor in self._all:
            actor.ask("leave", None)

    def perform(self, op: Op) -> Outcome:
        outcome: Outcome = self._actors[op.actor].ask("perform", op)
        return outcome

    def perform_watching_numbers(self, op: Op) -> tuple[Outcome, Complaint | None]:
        """Perform it, and complain if an object that it changed or moved, or an open one, got another
        st_ino.
        """
        outcome, complaint = self._actors[op.actor].ask("watch", op)
        return outcome, complaint

    def tree(self) -> Tree:
        """Paths and kinds of everything in the mount."""
        tree: Tree = self._onlooker.ask("tree", None)
        return tree

    def snapshot(self) -> Snapshot:
        taken: Snapshot = self._onlooker.ask("snapshot", None)
        return taken

    def opened_snapshot(self) -> Snapshot:
        """A snapshot for which the owner of everything opens what his modes close to him."""
        taken: Snapshot = self._onlooker.ask("open", None)
        return taken

    def paths(self, op: Op) -> list[bytes]:
        """What an operation would reach now, without symlinks in between."""
        paths: list[bytes] = self._actors[op.actor].ask("paths", op)
        return paths

    def numbers(self) -> dict[bytes, tuple[int, int]]:
        """st_dev and st_ino of everything in the mount."""
        numbers: dict[bytes, tuple[int, int]] = self._onlooker.ask("numbers", None)
        return numbers

    def close(self) -> None:
        """End the processes, by force if they do not answer. More than once does no harm."""
        # The last first: it has inherited the connections to the others.
        for actor in reversed(self._all):
            actor.close()


class _Actor:
    """One process, and the connection to it."""

    def __init__(self, place: Place, timeout: float) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(place, theirs, self._connection), daemon=True)
        self._process.start()
        theirs.close()
        self._timeout = timeout

    def close(self) -> None:
        if self._connection.closed:
            return
        self._connection.close()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
        if not self._process.is_alive():
            # Its descriptor would else stay open until the garbage is collected.
            self._process.close()

    def ask(self, what: str, argument: Any) -> Any:
        try:
            self._connection.send((what, argument))
            if not self._connection.poll(self._timeout):
                raise NoAnswerError(f"no answer within {self._timeout:.0f} s to {what} {argument or ''}")
            kind, answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise NoAnswerError(f"the worker died at {what} {argument or ''}") from None
        if kind == "raised":
            raise NoAnswerError(f"{what} {argument or ''}: {answer}")
        return answer


def _serve(place: Place, connection: Connection, other_end: Connection) -> None:
    other_end.close()
    place.enter_to_act()
    real_root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    slots = Slots()
    while True:
        try:
            what, argument = connection.recv()
        except EOFError:
            os._exit(0)
        try:
            connection.send(("answer", _answer(place, slots, real_root, what, argument)))
        except OSError as error:
            connection.send(("raised", repr(error)))


_KEEPS_NUMBER = {
    "chmod",
    "chown",
    "utime",
    "setxattr",
    "removexattr",
    "truncate",
    "put",
    "mmap_write",
    "link",
}


def _watch(slots: Slots, op: Op) -> tuple[Outcome, Complaint | None]:
    keeps_number = op.name == "rename" or op.name in _KEEPS_NUMBER
    before = _number(op.args[0]) if keeps_number else None
    open_before = {slot: (fd, os.fstat(fd).st_ino) for slot, fd in slots}
    outcome = perform(slots, op)
    if outcome[0] != "ok":
        return outcome, None
    if before is not None:
        path = op.args[1 if op.name == "rename" else 0]
        after = _number(path)
        if before != after:
            text = f"st_ino was {before} before {op} and is {after} after it"
            return outcome, Complaint(text, path, after)
    for slot, fd in slots:
        if slot in open_before and open_before[slot][0] == fd and op.name not in ("open", "openat", "reopen"):
            now = os.fstat(fd).st_ino
            if now != open_before[slot][1]:
                was = open_before[slot][1]
                return outcome, Complaint(f"fstat of an open file: st_ino {was} before {op}, {now} after it")
    return outcome, None


def _number(path: bytes) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def _answer(place: Place, slots: Slots, real_root: int, what: str, argument: Any) -> Any:
    if what == "perform":
        return perform(slots, argument)
    if what == "watch":
        return _watch(slots, argument)
    if what == "enter":
        with place.rooted():
            os.chdir(argument)
            os.chroot(b".")
        return None
    if what == "leave":
        slots.close_all()
        with place.rooted():
            os.fchdir(real_root)
            os.chroot(b".")
        return None
    if what == "tree":
        tree: Tree = [(b"", "dir")]
        _walk(b"", tree)
        return tree
    if what == "open":
        _open_all(b"/")
    if what == "paths":
        return _paths(slots, argument)
    taken = snapshot.take(b"/", with_data=what != "numbers")
    return taken.numbers if what == "numbers" else taken


def _open_all(path: bytes) -> None:
    kind = os.lstat(path).st_mode
    needed = 0o700 if stat.S_ISDIR(kind) else 0o400 if stat.S_ISREG(kind) else 0
    if kind & needed != needed:
        os.chmod(path, stat.S_IMODE(kind) | needed)
    if stat.S_ISDIR(kind):
        # What cannot be looked at nevertheless is compared by the snapshot.
        with suppress(OSError):
            for name in sorted(os.listdir(path)):
                with suppress(OSError):
                    _open_all(os.path.join(path, name))


def _paths(slots: Slots, op: Op) -> list[bytes]:
    slot = slot_of(op)
    at = b"/"
    if slot is not None:
        try:
            at = os.readlink(b"self/fd/%d" % slots[slot[1]], dir_fd=slots.proc)
        except OSError:
            return []  # no descriptor there
    words = [argument for argument in op.args if isinstance(argument, bytes) and b"\0" not in argument]
    given = [os.path.join(at, word) for word in words]  # data among them, which names nothing
    paths = [at]
    for parent, name in map(os.path.split, given):
        paths.append(os.path.join(os.path.realpath(parent), name))
    return paths + [os.path.realpath(path) for path in given]


def _walk(path: bytes, tree: Tree) -> None:
    try:
        with os.scandir(b"/" + path) as listing:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing)
    except OSError:
        return  # what cannot be listed is compared by the operations; here it only means: nothing known below
    for name, is_dir in entries:
        child = path + b"/" + name if path else name
        if is_dir:
            tree.append((child, "dir"))
            _walk(child, tree)
            continue
        try:
            mode = os.lstat(b"/" + child).st_mode
        except OSError:
            continue
        kind = "file" if stat.S_ISREG(mode) else "symlink" if stat.S_ISLNK(mode) else "special"
        tree.append((child, kind))
