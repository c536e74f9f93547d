"""Differences from kernel overlayfs that are wanted, where an ordinary user mounts the union himself.

As in `rules`: every rule is as narrow as it can be, and has its reason.
"""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from testing import transports
from testing.oracle.case import Op
from testing.oracle.descriptor_rules import LOCKS, plain, slot_of, stat_of
from testing.oracle.history_rules import Marked
from testing.oracle.operations import CHANGES_NOTHING, Outcome
from testing.oracle.rules import PartedWays, differ_in_set_ids
from testing.oracle.snapshot import Snapshot
from testing.oracle.worker import Worker

LINKS = "same object as"


class OwnRules:
    """All of them, for one mount after the other."""

    def __init__(self, lowers: Iterable[Path]) -> None:
        self._closed = ClosedLowers(lowers)
        self._links = NewLinks()

    def note(self, op: Op, outcome: Outcome) -> None:
        """To be called for every operation, equal or not."""
        self._links.note(op, outcome)

    def forgive(self, op: Op, reference: Outcome, subject: Outcome, worker: Worker) -> bool:
        """Whether this difference is wanted; raises PartedWays where nothing after it can be compared."""
        if is_umask_beside_default_acl(op, reference, subject):
            raise PartedWays
        if self._links.forgive(op, reference, subject, worker):
            return True
        if not self._closed or not self._closed.forgives(reference, subject, worker.paths(op)):
            return False
        if reference[0] == "ok" and op.name not in CHANGES_NOTHING:
            raise PartedWays
        return True

    def remount(self) -> None:
        """Locks are gone, and links are found to be one file."""
        self._links = NewLinks()

    def trees(self, reference: Snapshot, subject: Snapshot) -> tuple[Snapshot, Snapshot]:
        """Two snapshots without what is forgiven."""
        reference, subject = self._closed.without(reference), self._closed.without(subject)
        for path in reference.nodes.keys() & subject.nodes.keys():
            _show_as_one_file(reference.nodes[path], subject.nodes[path])
        return reference, subject


def is_umask_beside_default_acl(op: Op, reference: Outcome, subject: Outcome) -> bool:
    """Whether a new object lacks what the umask takes, over pyfuse3, which a default ACL would forbid.

    Neither fusermount3 nor pyfuse3 can have fuse.ko leave the umask to the daemon (docs/semantics.md).
    """
    if transports.chosen() != "pyfuse3" or not reference[0] == subject[0] == "ok":
        return False
    theirs, ours = stat_of(reference[1])[1], stat_of(subject[1])[1]
    if theirs is None or ours is None or (*theirs[:1], *theirs[2:]) != (*ours[:1], *ours[2:]):
        return False
    return theirs[1] != ours[1] and int(ours[1], 8) == int(theirs[1], 8) & ~op.umask


class NewLinks:
    """In a user namespace overlayfs follows no origin, and takes a new hard link for another file.

    It is looked up anew when it has been made (ovl_instantiate()), and not found among the inodes, which are
    known by their lower files: ovl_can_decode_fh() wants CAP_DAC_READ_SEARCH outside of the namespace. (So it
    is in root's mounts where the lower has no UUID, see docs/semantics.md.) Each of the two has locks of its
    own and does not know of the other's chmod; a rename of the one onto the other is refused. Here it is one
    file. Forgiven is what is said of such files' locks and of such a rename; what an old mode explains ends
    the case.
    """

    def __init__(self) -> None:
        self._linked = Marked()
        """Names of such files; all others may be gone by now."""

    def note(self, op: Op, outcome: Outcome) -> None:
        """To be called for every operation."""
        if op.name in ("link", "flink") and outcome[0] == "ok":
            old = self._linked.name(op) if op.name == "flink" else plain(op.args[0])
            self._linked.names.add(old.rpartition(b"/")[2])
        self._linked.follow(op, outcome)

    def forgive(self, op: Op, reference: Outcome, subject: Outcome, worker: Worker) -> bool:
        """Whether this difference is of that kind; raises PartedWays where something was done on one side."""
        if op.name in LOCKS:
            stats = [stat_of(one[1])[1] for one in (reference, subject) if one[0] == "ok"]
            return op in self._linked or any(map(_has_links, stats))
        if op.name == "rename":
            stays = reference in (("error", "ESTALE"), ("error", "EACCES")) and subject[0] == "ok"
            return stays and _has_links(subject[1])
        refused = [one in (("error", "EACCES"), ("ok", False)) for one in (reference, subject)]
        by_mode = refused[0] != refused[1] and self._is_by_old_mode(op, worker, refused=refused[1])
        owned = op.name in ("chown", "fchown") and reference[0] == subject[0] == "ok"
        if by_mode or (owned and differ_in_set_ids(reference[1], subject[1]) and _has_links(reference[1])):
            raise PartedWays
        return False

    def _is_by_old_mode(self, op: Op, worker: Worker, *, refused: bool) -> bool:
        """Whether the subject has refused, or not, what the mode that it shows does not grant, or does."""
        st = _look(worker, op)
        if st is None or st[0] == "dir" or (refused and int(st[1], 8) & 0o600 == 0o600):
            return False
        names = {path.rpartition(b"/")[2] for path in worker.paths(op)}
        return _has_links(st) or op in self._linked or not names.isdisjoint(self._linked.names)


def _look(worker: Worker, op: Op) -> tuple[Any, ...] | None:
    """The stat of what an operation reaches by its first argument."""
    look = Op("fstat", op.args[:1]) if slot_of(op) else Op("stat", (op.args[0], True))
    outcome = worker.perform(look._replace(uid=op.uid, actor=op.actor))
    return outcome[1] if outcome[0] == "ok" else None


def _has_links(st: object) -> bool:
    return isinstance(st, tuple) and st[0] != "dir" and st[5] > 1


def _show_as_one_file(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Have the reference's file be one with its other names, and show what its own mode allows.

    The name that it was linked to may be gone by now.
    """
    st = ours["stat"]
    if theirs["stat"] != st or not isinstance(st, tuple) or st[0] == "dir":
        return
    if LINKS in ours and set(theirs.get(LINKS, ())) <= set(ours[LINKS]):
        theirs[LINKS] = ours[LINKS]
    allowed = bool(int(st[1], 8) & 0o400)
    for one, other in ((theirs, ours), (theirs["xattrs"], ours["xattrs"])):
        for what in one.keys() & other.keys():
            if [value[what] != "EACCES" for value in (one, other)] == [not allowed, allowed]:
                one[what] = other[what]


class ClosedLowers:
    """What lies in a directory of a lower whose mode denies its owner to search it (docs/semantics.md).

    The kernel passes over that mode by its mounter's capabilities; an ordinary user's daemon has none, and
    must not change the mode of a lower. Forgiven is EACCES from an operation that needs a name in such a
    directory: one below it, or one that must know whether it is empty. Without redirects it stays where it
    is.
    """

    def __init__(self, lowers: Iterable[Path]) -> None:
        self._closed = {path for lower in lowers for path in _unsearchable(os.fsencode(lower), b"")}

    def __bool__(self) -> bool:
        return bool(self._closed)

    def forgives(self, reference: Outcome, subject: Outcome, paths: Iterable[bytes]) -> bool:
        """Whether this difference is of that kind. *paths*: those that the operation reaches."""
        refused = subject == ("error", "EACCES") or (reference, subject) == (("ok", True), ("ok", False))
        return refused and any(self._reaches(path, 0) for path in paths)

    def _reaches(self, path: bytes, above: int) -> bool:
        """Whether so many components above the last one there is such a directory, or further up."""
        parts = path.strip(b"/").split(b"/")
        return any(b"/".join(parts[:end]) in self._closed for end in range(1, len(parts) + 1 - above))

    def without(self, tree: Snapshot) -> Snapshot:
        """A snapshot without what is below such directories."""
        tree = copy.deepcopy(tree)
        for path in [path for path in tree.nodes if self._reaches(path, 1)]:
            del tree.nodes[path]
        for path in self._closed & tree.nodes.keys():
            tree.nodes[path].pop("names", None)
        return tree


def refuses_closed_root(said: str, uppers: Iterable[Path]) -> bool:
    """Whether pyunionfs has refused an upper whose mode denies it to its owner (docs/semantics.md).

    chmod(2) of the mount's root has made it so. Kernel overlayfs mounts it by its mounter's capabilities.
    """
    closed = [upper for upper in uppers if upper.stat().st_mode & 0o500 != 0o500]
    refusals = [f"upper {upper} cannot be {what} by" for upper in closed for what in ("read", "searched")]
    return any(refusal in said for refusal in refusals)


def _unsearchable(root: bytes, path: bytes) -> Iterator[bytes]:
    full = os.path.join(root, path)
    if path and not os.lstat(full).st_mode & stat.S_IXUSR:
        yield path
    with os.scandir(full) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        yield from _unsearchable(root, os.path.join(path, name))
