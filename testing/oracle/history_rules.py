"""Differences that are wanted, of objects to which something has happened before.

As in `rules`: every rule is as narrow as it can be, and has its reason. Each is asked about every operation
of a case, in order. Objects are known by the last component of their names, for a directory above may be
moved.
"""

from __future__ import annotations

import copy
import errno
import os

from testing.oracle.case import Case, Op
from testing.oracle.descriptor_rules import Slot, plain, slot_of, stat_of
from testing.oracle.operations import RENAME_EXCHANGE, Outcome
from testing.oracle.snapshot import Snapshot
from testing.oracle.vocabulary import CAPABILITY

_OPENS = ("open", "openat", "reopen")
_PUNCH_HOLE = 2
"""FALLOC_FL_PUNCH_HOLE"""
_NOT_SUPPORTED = errno.errorcode[errno.EOPNOTSUPP]
"""It has two names."""


class Marked:
    """Names of objects, and the descriptors that were opened by names."""

    def __init__(self) -> None:
        self.names: set[bytes] = set()
        self._opened: dict[Slot, bytes] = {}

    def follow(self, op: Op, outcome: Outcome) -> None:
        if outcome[0] != "ok":
            return
        if op.name in _OPENS:
            self._opened[op.actor, op.args[-1]] = self.name(op)
        elif op.name in ("rename", "link"):
            old, new = (_last(path) for path in op.args[:2])
            if old in self.names or (
                op.name == "rename" and op.args[2] == RENAME_EXCHANGE and new in self.names
            ):
                self.names |= {old, new}
        elif op.name == "flink" and self.name(op) in self.names:
            self.names.add(_last(op.args[1]))

    def name(self, op: Op) -> bytes:
        """Of the object whose stat the operation shows; empty where that is not known."""
        if op.name in ("rename", "link", "symlink", "openat", "statat"):
            return _last(op.args[1])
        slot = slot_of(op)
        if slot is not None:
            return self._opened.get(slot, b"")
        return _last(op.args[0]) if op.args and isinstance(op.args[0], bytes) else b""

    def __contains__(self, op: Op) -> bool:
        return self.name(op) in self.names

    def remount(self) -> None:
        self._opened.clear()


class ClearedTargets:
    """The links of an empty merged directory that a rename was to replace, and could not.

    The kernel has by then put an opaque directory in its place (ovl_clear_empty(), before ovl_set_redirect()
    finds the redirect too long). So it has two links, and one for each directory that is made in it; here it
    is as it was, merged, and has one.
    """

    def __init__(self) -> None:
        self._marked = Marked()

    def expected(self, op: Op, reference: Outcome, subject: Outcome) -> Outcome:
        """The reference with what is forgiven. To be asked for every operation, equal or not."""
        self._marked.follow(op, reference)
        if op.name == "rename" and op.args[2] == 0 and reference == ("error", "EXDEV"):
            self._marked.names.add(_last(op.args[1]))
        if op not in self._marked or not reference[0] == subject[0] == "ok":
            return reference
        (ahead, theirs), (_, ours) = stat_of(reference[1]), stat_of(subject[1])
        if theirs is None or ours is None or theirs[0] != "dir" or theirs[5] < 2 or ours[5] != 1:
            return reference
        theirs = (*theirs[:5], 1, *theirs[6:])
        return "ok", (*ahead, theirs) if ahead else theirs

    def remount(self) -> None:
        self._marked.remount()


class FailedAllocations:
    """The mtime of a file, without passthrough, after an fallocate(2) that upper's filesystem does not do.

    fuse.ko sets it before it asks (fuse_file_fallocate(): file_modified()), and keeps the times of what it
    caches; overlayfs sets it after a success (ovl_fallocate(): ovl_file_modified()). Forgiven is a subject's
    time that was made by the clock, until a change that both time alike.
    """

    def __init__(self, *, silent: bool) -> None:
        self._marked = Marked()
        self._silent = silent

    def expected(self, op: Op, reference: Outcome, subject: Outcome) -> Outcome:
        """The reference with what is forgiven. To be asked for every operation, equal or not."""
        self._marked.follow(op, reference)
        if not self._silent:
            return reference
        if op.name == "fallocate" and (
            reference == subject == ("error", _NOT_SUPPORTED) or _changes_nothing(op, reference)
        ):
            self._marked.names.add(self._marked.name(op))
        if op not in self._marked or not reference[0] == subject[0] == "ok":
            return reference
        (ahead, theirs), (_, ours) = stat_of(reference[1]), stat_of(subject[1])
        if theirs is None or ours is None or theirs[0] != "file":
            return reference
        if theirs[-1] == ours[-1]:
            if slot_of(op) is not None:  # by a descriptor, for there are other files of that name
                self._marked.names.discard(self._marked.name(op))
            return reference
        if ours[-1] != "now":
            return reference
        theirs = (*theirs[:-1], "now")
        return "ok", (*ahead, theirs) if ahead else theirs

    def forgiven(self, reference: Snapshot, subject: Snapshot) -> Snapshot:
        """The reference without what is forgiven."""
        reference = copy.deepcopy(reference)
        for path, ours in subject.nodes.items():
            theirs = reference.nodes.get(path)
            # Under one of its names another file may have been timed alike by now.
            names = {_last(name) for name in (path, *ours.get("same object as", ()))}
            if theirs is None or names.isdisjoint(self._marked.names):
                continue
            if theirs["stat"][0] == ours["stat"][0] == "file" and ours["stat"][-1] == "now":
                theirs["stat"] = (*theirs["stat"][:-1], "now")
        return reference

    def remount(self) -> None:
        self._marked.remount()


def _changes_nothing(op: Op, outcome: Outcome) -> bool:
    """Whether it was a hole where there is no data already: btrfs_punch_hole() leaves the mtime then."""
    if outcome[0] != "ok":
        return False
    mode = op.args[1]
    st = stat_of(outcome[1])[1]
    return bool(mode & _PUNCH_HOLE) and st is not None and st[-1] != "now"


class UnwrittenOpens:
    """Files that were opened for writing, where the kernel opens files without asking (docs/semantics.md).

    Kernel overlayfs has copied them up by then with their data (ovl_open(): ovl_maybe_copy_up()), also if
    nothing is written; here that waits for the first write. So of such a file an ACL that is not there cannot
    be removed here, which ext4 allows in upper; and a metacopy needs a redirect to be renamed or linked,
    which may be too long, where the kernel's has its data and needs none.
    """

    def __init__(self, *, silent: bool) -> None:
        self._marked = Marked()
        self._silent = silent

    def follow(self, op: Op, outcome: Outcome) -> None:
        """To be called for every operation, with what it was for the reference."""
        self._marked.follow(op, outcome)
        if op.name == "mmap_write" and outcome == ("ok", "too short"):
            self._marked.names.add(self._marked.name(op))
        if outcome[0] == "ok" and op.name in (*_OPENS, "put"):
            flags = op.args[2 if op.name == "openat" else 1]
            if flags & os.O_ACCMODE != os.O_RDONLY:
                self._marked.names.add(self._marked.name(op))

    def changes_one(self, op: Op) -> bool:
        """Whether the operation is a change of such a file, by a name of it or by descriptor."""
        if not self._silent:
            return False
        if op.name in ("rename", "link"):
            both = op.name == "rename" and op.args[2] == RENAME_EXCHANGE
            return any(_last(path) in self._marked.names for path in op.args[: 2 if both else 1])
        return op in self._marked

    def has(self, path: bytes) -> bool:
        """Whether this may be such a file."""
        return self._silent and _last(path) in self._marked.names

    def needs_redirect(self, op: Op, reference: Outcome, subject: Outcome) -> bool:
        """Whether this difference is of that kind: nothing after it can be compared."""
        moves = op.name in ("rename", "link", "flink") and self.changes_one(op)
        return moves and reference[0] == "ok" and subject == ("error", "EXDEV")

    def remount(self) -> None:
        self._marked.remount()


class EmptyChowns:
    """Chowns that leave both ids, of files with set-ids, after which the trees differ (docs/semantics.md).

    While the file is open for writing, such a chown looks to the daemon like what comes before a write, which
    takes set-ids of any writer but root, whose write leaves them if it takes a capability. And where the
    chown is refused, fuse.ko has removed a capability before it asks (setattr_prepare()).
    """

    def __init__(self, case: Case) -> None:
        self._capable = any(CAPABILITY in dict(entry.xattrs) for entry in case.entries) or any(
            CAPABILITY in op.args for stack in case.stacks for op in (*stack.ops, *case.ops)
        )
        self._writers: dict[Slot, bytes] = {}
        self._marked = Marked()

    def parts(self, op: Op, reference: Outcome, subject: Outcome) -> bool:
        """Whether this is one of them. To be asked for every operation, equal or not."""
        self._marked.follow(op, reference)
        if op.name in _OPENS and reference[0] == "ok":
            slot = op.actor, op.args[-1]
            self._writers.pop(slot, None)
            if op.args[2 if op.name == "openat" else 1] & os.O_ACCMODE != os.O_RDONLY:
                self._writers[slot] = self._marked.name(op)
        if op.name not in ("chown", "fchown") or op.args[1:3] != (-1, -1):
            return False
        written = self._marked.name(op) in self._writers.values()
        if reference == ("error", "EPERM"):
            return written if subject[0] == "ok" else subject == reference and self._capable
        if not reference[0] == subject[0] == "ok" or not written or not self._capable:
            return False
        theirs, ours = stat_of(reference[1])[1], stat_of(subject[1])[1]
        return theirs is not None and ours is not None and theirs[1] != ours[1]

    def remount(self) -> None:
        self._marked.remount()
        self._writers.clear()


def _last(path: bytes) -> bytes:
    return plain(path).rpartition(b"/")[2]
