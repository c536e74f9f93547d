"""Differences from kernel overlayfs that are wanted, each with its reason.

Every rule is as narrow as it can be and says in which direction it forgives. A difference that no rule here
names is a fault. Two more are kept out of reach by the generator instead: lower hard links without an index
(see `vocabulary.LINKED`), and names starting with `.wh.`, which are marks here and plain names for
overlayfs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from tests.oracle.case import Op
from tests.oracle.operations import Outcome
from tests.oracle.snapshot import Snapshot

OPAQUE = "trusted.overlay.opaque"
ORIGIN = "trusted.overlay.origin"
_CHANGES_BY_DESCRIPTOR = {"fchmod", "fchown", "futime", "fsetxattr", "fremovexattr", "ftruncate"}
_CANNOT_COPY_UP = {"EEXIST", "ENOENT", "ENOTDIR", "ESTALE"}


class UnlinkedLower:
    """The kernel cannot copy up what has no name any more.

    A change through a descriptor of a lower object that was unlinked or replaced since it was opened fails
    with one of several errnos that such calls do not have otherwise. Here the change is made, on a file
    that only the descriptor reaches. From then on the two descriptors are different files, until the slot
    is used again.
    """

    def __init__(self) -> None:
        self._apart: set[int] = set()

    def forgives(self, op: Op, reference: Outcome, subject: Outcome) -> bool:
        """Whether this difference is of that kind. To be asked for every operation, equal or not."""
        slot = _slot(op)
        if op.name in ("open", "openat"):
            self._apart.discard(op.args[-1])
            return slot in self._apart
        if slot is None:
            return False
        if op.name == "close":
            self._apart.discard(slot)
        elif reference != subject and op.name in _CHANGES_BY_DESCRIPTOR and reference[1] in _CANNOT_COPY_UP:
            self._apart.add(slot)
        return slot in self._apart


def _slot(op: Op) -> int | None:
    by_descriptor = op.name in ("close", "openat", "statat", "mkdirat", "unlinkat") or op.name in (
        *("fread", "fwrite", "fstat", "ftruncate", "fchmod", "fchown", "futime"),
        *("fsetxattr", "fgetxattr", "fremovexattr", "flistxattr", "fsync", "flist"),
    )
    return int(op.args[0]) if by_descriptor else None


class FailedOperations:
    """What the kernel does before it finds that an operation must fail.

    A rename makes a source directory opaque and touches the parents first; a setxattr copies the file up
    first. Here nothing is changed by what fails. Forgiven is only what the reference has and the subject
    lacks, and only at the paths of operations that failed.
    """

    def __init__(self, ops: Sequence[Op], outcomes: Sequence[Outcome]) -> None:
        self.sources: set[bytes] = set()
        self.parents: set[bytes] = set()
        self.copied: set[bytes] = set()
        opened: dict[int, bytes] = {}
        for op, outcome in zip(ops, outcomes, strict=True):
            if op.name == "open":
                opened[op.args[-1]] = op.args[0]
            if outcome[0] == "ok":
                continue
            if op.name == "rename":
                self.sources |= {_plain(path) for path in op.args[:2]}
                self.parents |= {_plain(path).rpartition(b"/")[0] for path in op.args[:2]}
            elif op.name in ("setxattr", "removexattr"):
                self._copies(op.args[0])
            elif op.name in ("fsetxattr", "fremovexattr") and op.args[0] in opened:
                self._copies(opened[op.args[0]])

    def _copies(self, path: bytes) -> None:
        parts = _plain(path).split(b"/")
        self.copied |= {b"/".join(parts[:end]) for end in range(1, len(parts) + 1)}

    def forgiven(self, reference: Snapshot, subject: Snapshot) -> Snapshot:
        """The reference without what is forgiven."""
        reference = copy.deepcopy(reference)
        for path, ours in subject.nodes.items():
            theirs = reference.nodes.get(path)
            if theirs is None or not (theirs["stat"][0] == "dir" == ours["stat"][0]):
                continue
            if path in self.sources and OPAQUE not in ours["xattrs"]:
                theirs["xattrs"].pop(OPAQUE, None)
            if path in self.parents and theirs["stat"][-1] == "now":
                theirs["stat"] = (*theirs["stat"][:-1], ours["stat"][-1])
        for path in self.copied & (reference.nodes.keys() - subject.nodes.keys()):
            if _is_copied_up(reference.nodes[path]):
                parent, _, name = path.rpartition(b"/")
                del reference.nodes[path]
                if name in reference.nodes.get(parent, {}).get("names", []):
                    reference.nodes[parent]["names"].remove(name)
        return reference


def _plain(path: bytes) -> bytes:
    return b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))


def _is_copied_up(node: dict[str, Any]) -> bool:
    """In an upper as it lies on disk; a directory's origin is not among what is compared there."""
    return isinstance(node["stat"], tuple) and (node["stat"][0] == "dir" or ORIGIN in node["xattrs"])
