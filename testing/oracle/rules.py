"""Differences from kernel overlayfs that are wanted, each with its reason.

Every rule is as narrow as it can be and says in which direction it forgives. A difference that no rule here
names is a fault. Two more are kept out of reach by the generator instead: lower hard links without an index
(see `vocabulary.LINKED`), and names starting with `.wh.`, which are marks here and plain names for
overlayfs.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

from testing.oracle.case import Case, Op
from testing.oracle.descriptor_rules import Slot, plain, stat_of
from testing.oracle.history_rules import ClearedTargets, FailedAllocations, UnwrittenOpens
from testing.oracle.operations import RENAME_EXCHANGE, Outcome
from testing.oracle.snapshot import Snapshot
from unionfs.transport.direct.lower_reads import LARGE_FILE

OPAQUE = "trusted.overlay.opaque"
REDIRECT = "trusted.overlay.redirect"
ORIGIN = "trusted.overlay.origin"
METACOPY = "trusted.overlay.metacopy"
SGI_ACLS = {"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"}
"""What an object that has ACLs has beside them on xfs (xfs_xattr_put_listent()), and on no other filesystem.

So it is seen on the side that has it in an upper on xfs, and not on the one that has it in a lower elsewhere.
"""


def is_removal_of_no_acl(op: Op, reference: Outcome, subject: Outcome) -> bool:
    """Removing an ACL that is not there is ENODATA on a lower object, and on ext4 success on an upper one.

    The two sides disagree where the kernel has the object in upper and the subject has not
    (`FailedOperations.has_copied_up`); and with an index also the other way round, where a name of an indexed
    file has brought a directory there (see `with_counted_links`).
    """
    removes = op.name in ("removexattr", "fremovexattr")
    is_acl = removes and op.args[1].startswith("system.posix_acl_")
    return is_acl and reference[0] == "ok" and subject == ("error", "ENODATA")


class PartedWays(Exception):
    """The kernel has done what it should not have, and nothing after it can be compared."""


def is_name_too_long_for_a_mark(op: Op, reference: Outcome, subject: Outcome) -> bool:
    """`.wh.NAME` has room for 251 bytes of a name: a longer one of a lower cannot be removed (docs)."""
    removes = op.name in ("unlink", "rmdir", "unlinkat", "rename", "renameat")
    return removes and reference[0] == "ok" and subject == ("error", "ENAMETOOLONG")


def is_xfs_keeping_set_ids(case: Case, op: Op, reference: Outcome, subject: Outcome) -> bool:
    """On xfs itself, truncating an empty file to nothing keeps setuid and setgid; here they always go."""
    if case.config.fs != "xfs" or op.name != "truncate" or "error" in (reference[0], subject[0]):
        return False
    return differ_in_set_ids(reference[1], subject[1])


def differ_in_set_ids(theirs: Any, ours: Any) -> bool:
    """Whether two stats of a file are the same but for set-id bits that only the reference has."""
    if not isinstance(theirs, tuple) or theirs[0] != "file" or theirs[:1] + theirs[2:] != ours[:1] + ours[2:]:
        return False
    return int(theirs[1], 8) & ~0o6000 == int(ours[1], 8) and theirs[1] != ours[1]


def is_parting(case: Case, op: Op, reference: Outcome, subject: Outcome) -> bool:
    """Faults of the kernel's after which the trees differ, of overlayfs or of xfs.

    A directory whose only entries are whiteout files (`overlay.whiteout`, `opaque=x`) lists as empty, but
    the kernel does not let it be removed or replaced. And of a metacopy of several names, a new link made by
    one that is too long for a redirect is EXDEV (ovl_set_link_redirect()); a request for a link says of which
    file it is to be, not by which name, and here any name of it will do (docs/semantics.md).
    """
    if op.name in ("link", "flink") and case.config.metacopy and subject[0] == "ok":
        _, made = stat_of(subject[1])
        return reference == ("error", "EXDEV") and made is not None and made[5] > 2
    if op.name in ("rmdir", "unlinkat", "rename", "renameat"):
        hides = any(entry.kind == "xwhiteout" for entry in case.entries)
        return hides and reference == ("error", "ENOTEMPTY") and subject[0] == "ok"
    return is_xfs_keeping_set_ids(case, op, reference, subject)


def is_resurrection(op: Op, reference: Outcome, subject: Outcome) -> bool:
    """A change by a descriptor of what was removed and lies in a lower, after which the trees differ.

    The kernel copies a FIFO or device up under the name that it had, in place of the whiteout
    (ovl_copy_up_workdir(), where for a file ovl_copy_up_tmpfile() finds that the name exists): it is back.
    A directory fails with ENOTDIR at a whiteout, but takes the place of a directory that has its name by now.
    Here it stays removed.
    """
    if op.name not in ("fchmod", "fchown", "futime", "fsetxattr", "fremovexattr") or reference[0] != "ok":
        return False
    if subject == ("error", "ENOENT"):
        found = stat_of(reference[1])[1]
        return found is not None and found[0] == "dir"
    if subject[0] != "ok":
        return False
    theirs, ours = stat_of(reference[1])[1], stat_of(subject[1])[1]
    if theirs is None or ours is None or theirs[0] in ("file", "dir"):
        return False
    return bool(theirs[5] > 0 and ours[5] == 0)


def is_stale_to_write(op: Op, reference: Outcome, subject: Outcome, *, large_only: bool) -> bool:
    """Opening to write, by /proc/PID/fd, a lower file that is read by passthrough (docs/semantics.md).

    The slot is another's file then on the one side, and empty on the other.
    """
    writes = op.name == "reopen" and op.args[1] & (os.O_ACCMODE | os.O_TRUNC)
    if not writes or reference[0] != "ok" or subject != ("error", "ESTALE"):
        return False
    st = stat_of(reference[1])[1]
    return not large_only or (st is not None and st[4] >= LARGE_FILE)


def is_other_check_first(op: Op, reference: Outcome, subject: Outcome) -> bool:
    """A rename that fails for two reasons: the redirect would be too long, and the target is not empty."""
    return op.name == "rename" and reference == ("error", "EXDEV") and subject == ("error", "ENOTEMPTY")


def is_ghost_out_of_reach(case: Case, op: Op, reference: Outcome, subject: Outcome) -> bool:
    """A whiteout that the kernel lists (`not_a_ghost`), where the user may list the directory only.

    Without search permission every name answers EACCES. Forgiven are names that only the reference has and
    that are whiteouts of a layer made by hand.
    """
    if op.name not in ("list", "flist") or not reference[0] == subject[0] == "ok":
        return False
    ghosts = {entry.path.rpartition(b"/")[2] for entry in case.entries if entry.kind == "whiteout"}
    more = [entry for entry in reference[1] if entry not in subject[1]]
    names = {entry[0] if isinstance(entry, tuple) else os.fsencode(entry) for entry in more}
    return names <= ghosts and len(more) + len(subject[1]) == len(reference[1])


def with_one_errno_for_not_empty(op: Op, outcome: Outcome) -> Outcome:
    """POSIX allows EEXIST and ENOTEMPTY for a rename onto a directory that is not empty.

    Overlayfs answers by itself, or lets upper's filesystem answer, which for xfs means EEXIST.
    """
    replaces = op.name == "rename" and op.args[2] == 0
    return ("error", "ENOTEMPTY") if replaces and outcome == ("error", "EEXIST") else outcome


def with_counted_links(reference: Outcome, subject: Outcome, *, index: bool) -> Outcome:
    """A directory shows one link from when it is in upper and in a lower, and its links are not counted then.

    The kernel puts it into upper in two cases where nothing changes: a setxattr in it that fails, and a
    change to a hard-linked file, copied up already, through its name there (FUSE hands changes on by
    object, not by name). Forgiven is a count where the reference has 1; that ours shows 1 for a merged
    directory has a test of its own. With an index it can be the other way round: an indexed file comes into
    upper under a known name of it, with that name's directory.
    """
    if reference[0] == "error" or subject[0] == "error":
        return reference
    (ahead, theirs), (_, ours) = stat_of(reference[1]), stat_of(subject[1])
    if theirs is None or ours is None or theirs[0] != "dir":
        return reference
    if theirs[5] != 1 and not (index and ours[5] == 1):
        return reference
    theirs = (*theirs[:5], ours[5], *theirs[6:])
    return "ok", (*ahead, theirs) if ahead else theirs


def without_metacopy_times(reference: Outcome, subject: Outcome) -> Outcome:
    """With metacopy=on, the kernel gives a file a new mtime when it copies the data up at last.

    That is at the first open for writing, before anything is written; the data copy of a plain copy-up
    keeps the time, as here all do. Forgiven is a reference's time that was made by the clock where the
    subject's was not.
    """
    if reference[0] == "error" or subject[0] == "error":
        return reference
    (ahead, theirs), (_, ours) = stat_of(reference[1]), stat_of(subject[1])
    if theirs is None or ours is None or theirs[0] != "file" or theirs[-1] != "now":
        return reference
    return "ok", (*ahead, (*theirs[:-1], ours[-1])) if ahead else (*theirs[:-1], ours[-1])


class FailedOperations:
    """What the kernel does before it finds that an operation must fail.

    A rename makes a source directory opaque and touches the parents first, has copied it up when its redirect
    turns out too long or upper's filesystem finds the target not empty, and has by then replaced a target
    that holds whiteouts only by an opaque directory without (ovl_clear_empty()); a setxattr copies the file
    up first. Here nothing is changed by what fails. Forgiven is only what the reference has and the subject
    lacks, and only at the names of
    operations that failed.

    Times and counts of links, as the functions above explain, are forgiven here, too, for they concern whole
    trees.
    """

    def __init__(self, case: Case, outcomes: Sequence[Outcome], *, silent: bool) -> None:
        self.times_differ = case.config.metacopy
        """Whether files may have times of `without_metacopy_times`."""
        self.index = case.config.index
        self.cleared = ClearedTargets()
        self.allocations = FailedAllocations(silent=silent)
        self.unwritten = UnwrittenOpens(silent=silent)
        self.sources: set[bytes] = set()
        self.parents: set[bytes] = set()
        self.copied: set[bytes] = set()
        opened: dict[Slot, bytes] = {}
        for op, outcome in zip(case.ops, outcomes, strict=True):
            if op.name == "open":
                opened[op.actor, op.args[-1]] = op.args[0]
            if outcome[0] == "ok":
                self._follow(op)
                continue
            if op.name == "rename":
                # By name, not by path: the directory that has the mark now may have been moved along with
                # another.
                self.sources |= {plain(path).rpartition(b"/")[2] for path in op.args[:2]}
                above = [plain(path).rpartition(b"/")[0] for path in op.args[:2]]
                self.parents |= {path.rpartition(b"/")[2] for path in above}
                if outcome[1] in ("EXDEV", "ENOTEMPTY", "EEXIST"):
                    self._copies(op.args[0])
            elif op.name in ("setxattr", "removexattr"):
                self._copies(op.args[0])
            elif op.name in ("fsetxattr", "fremovexattr") and (op.actor, op.args[0]) in opened:
                self._copies(opened[op.actor, op.args[0]])

    def _follow(self, op: Op) -> None:
        """A directory that was touched has been renamed since."""
        if op.name == "rename":
            old, new = (plain(path).rpartition(b"/")[2] for path in op.args[:2])
            if old in self.parents or (op.args[2] == RENAME_EXCHANGE and new in self.parents):
                self.parents |= {old, new}

    def expected(self, op: Op, reference: Outcome, subject: Outcome) -> Outcome:
        """The reference without the time of a directory that a rename touched before it failed, and more."""
        reference = self.cleared.expected(op, reference, subject)
        reference = self.allocations.expected(op, reference, subject)
        self.unwritten.follow(op, reference)
        if not reference[0] == subject[0] == "ok":
            return reference
        if op.name in ("listxattr", "flistxattr") and self.has_copied_up(op):
            return "ok", [name for name in reference[1] if name not in SGI_ACLS or name in subject[1]]
        (ahead, theirs), (_, ours) = stat_of(reference[1]), stat_of(subject[1])
        if theirs is None or ours is None or theirs[0] != "dir" or theirs[-1] != "now":
            return reference
        names = {plain(path).rpartition(b"/")[2] for path in op.args if isinstance(path, bytes)}
        if not (names & self.parents if names else self.parents):
            return reference
        theirs = (*theirs[:-1], ours[-1])
        return "ok", (*ahead, theirs) if ahead else theirs

    def remount(self) -> None:
        """Descriptors are closed."""
        self.cleared.remount()
        self.allocations.remount()
        self.unwritten.remount()

    def has_copied_up(self, op: Op) -> bool:
        """Whether what failed, or wrote nothing, may have copied up what this operation changes."""
        by_name = isinstance(op.args[0], bytes)
        copied = plain(op.args[0]).rpartition(b"/")[2] in self.copied if by_name else bool(self.copied)
        return copied or self.unwritten.changes_one(op)

    def _copies(self, path: bytes) -> None:
        self.copied |= set(plain(path).split(b"/"))

    def forgiven(self, reference: Snapshot, subject: Snapshot) -> Snapshot:
        """The reference without what is forgiven."""
        reference = self.allocations.forgiven(reference, subject)
        for path, ours in subject.nodes.items():
            theirs = reference.nodes.get(path)
            if theirs is None:
                continue
            if path.rpartition(b"/")[2] in self.sources:
                _give_whiteouts_back(reference, subject, path)
            if path.rpartition(b"/")[2] in self.copied or self.unwritten.has(path):
                _remove_sgi_acls(theirs, ours)
            _, theirs["stat"] = with_counted_links(
                ("ok", theirs["stat"]), ("ok", ours["stat"]), index=self.index
            )
            if self.times_differ:
                _, theirs["stat"] = without_metacopy_times(("ok", theirs["stat"]), ("ok", ours["stat"]))
            if not (theirs["stat"][0] == "dir" == ours["stat"][0]):
                continue
            if path.rpartition(b"/")[2] in self.sources:
                for mark in {OPAQUE, REDIRECT} - ours["xattrs"].keys():
                    theirs["xattrs"].pop(mark, None)
            one, other = (node["xattrs"].get(REDIRECT, b"") for node in (theirs, ours))
            above = path.rpartition(b"/")[0]
            if other and one == b"/" + (above + b"/" if above else b"") + other:
                # They say the same, as the swapped mounts prove; the kernel's is of a rename to another
                # directory that failed.
                theirs["xattrs"][REDIRECT] = other
            name = path.rpartition(b"/")[2]
            if name in self.parents and theirs["stat"][-1] == "now":
                theirs["stat"] = (*theirs["stat"][:-1], ours["stat"][-1])
            if name in self.sources and ours["stat"][5] == 1:
                # It has been merged with nothing since its whiteouts were replaced.
                theirs["stat"] = (*theirs["stat"][:5], 1, *theirs["stat"][6:])
        for path in sorted(reference.nodes.keys() - subject.nodes.keys()):
            parent, _, name = path.rpartition(b"/")
            if name in self.copied and _is_copied_up(reference.nodes[path]):
                del reference.nodes[path]
                if name in reference.nodes.get(parent, {}).get("names", []):
                    reference.nodes[parent]["names"].remove(name)
        return reference


def _remove_sgi_acls(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Take from an object of the reference what xfs lists beside its ACLs, if the subject's has no such."""
    more, attributes = theirs.get("xattrs"), ours.get("xattrs")
    if isinstance(more, dict) and isinstance(attributes, dict):  # not a whiteout's, nor an errno
        for name in SGI_ACLS - attributes.keys():
            more.pop(name, None)


def _give_whiteouts_back(reference: Snapshot, subject: Snapshot, path: bytes) -> None:
    """Have a directory of the reference hold the whiteouts that it lacks, if it is opaque instead."""
    theirs, ours = reference.nodes[path], subject.nodes[path]
    if not isinstance(ours.get("names"), list) or not isinstance(theirs.get("names"), list):
        return  # an errno: closed to this user
    more = [name for name in ours["names"] if name not in theirs["names"]]
    nodes = {path + b"/" + name: subject.nodes[path + b"/" + name] for name in more}
    if not more or theirs["xattrs"].get(OPAQUE) != b"y":
        return
    if all(node["stat"] == "whiteout" for node in nodes.values()):
        reference.nodes.update(copy.deepcopy(nodes))
        theirs["names"] = sorted([*theirs["names"], *more])
        marks = {mark: ours["xattrs"].get(mark) for mark in (OPAQUE, REDIRECT, ORIGIN)}
        kept = {name: value for name, value in theirs["xattrs"].items() if name not in marks}
        theirs["xattrs"] = kept | {name: value for name, value in marks.items() if value is not None}


def without_index_names(reference: Snapshot, subject: Snapshot) -> None:
    """With index=on, which names of a hard-linked file lie in upper is not compared.

    The kernel links a name into upper at the first change that comes through that name; FUSE hands a change
    on by object, not by name. A name that is not in upper is found through the index and shows the same
    object, which the trees and the swapped mounts prove. Taken out of both: names that only one has, if
    they are a copied-up file's, and the directories that only one has and that hold nothing else.
    """
    for one, other in ((reference, subject), (subject, reference)):
        emptied: set[bytes] = set()
        for path in sorted(one.nodes.keys() - other.nodes.keys(), reverse=True):  # what is below, first
            node = one.nodes[path]
            if not isinstance(node["stat"], tuple):
                continue
            is_dir = node["stat"][0] == "dir"
            if (path in emptied and not node["names"]) if is_dir else node["stat"][5] > 1:
                parent, _, name = path.rpartition(b"/")
                del one.nodes[path]
                if parent in one.nodes:
                    one.nodes[parent]["names"].remove(name)
                    emptied.add(parent)
    for snapshot in (reference, subject):
        for node in snapshot.nodes.values():
            node.pop("same object as", None)
            if isinstance(node["stat"], tuple) and node["stat"][0] != "dir":
                node["stat"] = (*node["stat"][:5], "links", *node["stat"][6:])
                if REDIRECT in node["xattrs"]:
                    # To any of the lower file's names: the swapped mounts prove that it leads to the data.
                    node["xattrs"][REDIRECT] = b"present"


def is_truncation_to_the_same_size(op: Op, reference: Outcome, subject: Outcome) -> bool:
    """With a writeback cache the kernel keeps a file's times, and sets none where the size stays.

    Forgiven is the time of a truncation after which both have the same size.
    """
    if op.name not in ("truncate", "ftruncate") or not reference[0] == subject[0] == "ok":
        return False
    theirs, ours = stat_of(reference[1])[1], stat_of(subject[1])[1]
    return theirs is not None and ours is not None and theirs[:-1] == ours[:-1] and theirs[-1] == "now"


def without_unwritten_copies(reference: Snapshot, subject: Snapshot) -> None:
    """Where the kernel opens files without asking, an open for writing that writes nothing copies nothing up.

    Taken out of the reference: copied-up files that the subject does not have in upper, and the directories
    that hold nothing else; and the data of files that are metacopies there. A file that was renamed in
    between got its data later, and has kept the redirect of the metacopy that it was (so does the kernel's).
    """
    for path in sorted(reference.nodes.keys() - subject.nodes.keys(), reverse=True):  # what is below, first
        node = reference.nodes[path]
        if "xattrs" not in node or not _is_copied_up(node) or node.get("names"):
            continue
        parent, _, name = path.rpartition(b"/")
        del reference.nodes[path]
        if parent in reference.nodes:
            reference.nodes[parent]["names"].remove(name)
    for path, ours in subject.nodes.items():
        theirs = reference.nodes.get(path)
        if theirs is not None and METACOPY in ours.get("xattrs", ()) and METACOPY not in theirs["xattrs"]:
            theirs["xattrs"][METACOPY] = ours["xattrs"][METACOPY]
            if REDIRECT in ours["xattrs"]:
                theirs["xattrs"][REDIRECT] = ours["xattrs"][REDIRECT]
            theirs["data"] = ours["data"]
        elif (
            theirs is not None
            and ours["stat"][0] == theirs["stat"][0] == "file"
            and REDIRECT in ours["xattrs"]
        ):
            theirs["xattrs"].setdefault(REDIRECT, ours["xattrs"][REDIRECT])


def _is_copied_up(node: dict[str, Any]) -> bool:
    """In an upper as it lies on disk; a directory's origin is not among what is compared there."""
    return isinstance(node["stat"], tuple) and (node["stat"][0] == "dir" or ORIGIN in node["xattrs"])
