"""Differences from kernel overlayfs that are wanted, of what descriptors show that outlive a change.

As in `rules`: every rule is as narrow as it can be, and has its reason. Each is asked about every operation
of a mount, in order, because what it forgives depends on those before.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from testing.oracle.case import Op
from testing.oracle.operations import SEEN_FIELDS, Outcome

_CHANGES_BY_DESCRIPTOR = {"fchmod", "fchown", "futime", "fsetxattr", "fremovexattr", "ftruncate", "reopen"}
_CANNOT_COPY_UP = {"EEXIST", "ENOENT", "ENOTDIR", "ENOTEMPTY", "ESTALE"}
LOCKS = ("flock", "setlk", "getlk")
Slot = tuple[int, int]
"""A descriptor: the process that has it, and the number of its slot there."""


class UnlinkedLower:
    """The kernel cannot copy up what has no name any more.

    A change through a descriptor of a lower object that was unlinked or replaced since it was opened fails
    with one of several errnos that such calls do not have otherwise. Here the change is made, on a file
    that only the descriptor reaches. From then on the two descriptors are different files, until the slot
    is used again.
    """

    def __init__(self) -> None:
        self._apart: set[Slot] = set()
        self._opened: dict[Slot, bytes] = {}

    def forgives(self, op: Op, reference: Outcome, subject: Outcome) -> bool:
        """Whether this difference is of that kind. To be asked for every operation, equal or not."""
        slot = slot_of(op)
        if op.name in ("open", "openat"):
            if "ok" in (reference[0], subject[0]):
                self._opens((op.actor, op.args[-1]), op.args[0 if op.name == "open" else 1])
            return slot in self._apart
        if slot is None:
            return False
        if op.name == "close":
            self._apart.discard(slot)
        elif reference != subject and op.name in _CHANGES_BY_DESCRIPTOR and reference[1] in _CANNOT_COPY_UP:
            # So are all that were opened by the same name.
            name = self._opened.get(slot)
            self._apart |= {slot, *(other for other, its in self._opened.items() if its == name)}
        forgiven = slot in self._apart
        if op.name == "reopen":
            new = op.actor, op.args[-1]
            self._opens(new, self._opened.get(slot, b""))
            if forgiven:
                self._apart.add(new)
        return forgiven

    def _opens(self, slot: Slot, path: bytes) -> None:
        self._apart.discard(slot)
        self._opened[slot] = plain(path)


class UnlinkedLinks:
    """The link count of a lower file that was opened to read and has lost its name since.

    The kernel shows the lower's, here it is 0 (docs/semantics.md). Forgiven is a 0 of a descriptor whose file
    had one of its names removed or replaced after it was opened.
    """

    def __init__(self) -> None:
        self._names: dict[Slot, set[bytes]] = {}
        self._gone: set[Slot] = set()

    def expected(self, op: Op, reference: Outcome, subject: Outcome) -> Outcome:
        """The reference with what is forgiven. To be asked for every operation, equal or not."""
        slot = slot_of(op)
        if reference[0] == "ok":
            self._follow(op, slot)
        if slot not in self._gone or not reference[0] == subject[0] == "ok":
            return reference
        (ahead, theirs), (_, ours) = stat_of(reference[1]), stat_of(subject[1])
        if theirs is None or ours is None or theirs[0] == "dir" or ours[5] != 0:
            return reference
        theirs = (*theirs[:5], 0, *theirs[6:])
        return "ok", (*ahead, theirs) if ahead else theirs

    def _follow(self, op: Op, slot: Slot | None) -> None:
        """By name, not by path: a directory above may have been moved."""
        if op.name in ("open", "openat", "reopen"):
            new = op.actor, op.args[-1]
            if op.name == "reopen" and slot is not None:
                self._names[new] = set(self._names.get(slot, ()))
                (self._gone.add if slot in self._gone else self._gone.discard)(new)
            else:
                self._names[new] = {_name(op.args[0 if op.name == "open" else 1])}
                self._gone.discard(new)
        elif op.name in ("unlink", "unlinkat", "rename"):
            removed = _name(op.args[0 if op.name == "unlink" else 1])
            self._gone |= {other for other, names in self._names.items() if removed in names}
        if op.name in ("rename", "link"):
            for names in self._names.values():
                if _name(op.args[0]) in names:
                    names.add(_name(op.args[1]))


def _name(path: bytes) -> bytes:
    return plain(path).rpartition(b"/")[2]


class OldReaders:
    """A reader of a lower file by passthrough keeps that file when it is copied up.

    The kernel's overlayfs gives old readers the upper file. Forgiven is a read through a descriptor that was
    opened for reading only, of a path that was written to since; with `coherent` there is nothing to forgive.
    """

    _WRITES: ClassVar = {"put", "open", "truncate", "mmap_write", "write"}

    def __init__(self) -> None:
        self._open: dict[Slot, bytes] = {}
        self._written: set[Slot] = set()

    def forgives(self, op: Op, reference: Outcome, subject: Outcome) -> bool:
        """Whether this difference is of that kind. To be asked for every operation, equal or not."""
        if op.name == "open" and op.args[1] & os.O_ACCMODE == os.O_RDONLY and not op.args[1] & os.O_TRUNC:
            self._open[op.actor, op.args[-1]] = plain(op.args[0])
            self._written.discard((op.actor, op.args[-1]))
        elif op.name in self._WRITES:
            self._written |= {slot for slot, path in self._open.items() if path == plain(op.args[0])}
        return op.name == "fread" and slot_of(op) in self._written and reference[0] == subject[0] == "ok"


def slot_of(op: Op) -> Slot | None:
    """The descriptor that an operation works on, if it does."""
    by_descriptor = op.name in ("close", "openat", "statat", "mkdirat", "unlinkat") or op.name in (
        *("fread", "fwrite", "fstat", "ftruncate", "fchmod", "fchown", "futime"),
        *("fsetxattr", "fgetxattr", "fremovexattr", "flistxattr", "fsync", "flist"),
        *("lseek", "fallocate", "reopen", "flink", *LOCKS),
    )
    return (op.actor, int(op.args[0])) if by_descriptor else None


def stat_of(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """The stat in what an operation gave back: alone, or after a number of bytes."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], tuple):
        return value[:1], value[1]
    return (), value if isinstance(value, tuple) and len(value) == len(SEEN_FIELDS) else None


def plain(path: bytes) -> bytes:
    return b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
