"""Performs a case on both sides and finds the first difference.

The way of a case: both sides get the same layers (`stage.py`). Then the reference performs the operations
(drawing them if the case has none yet), the subject performs the same, and stops at the first outcome that
differs. Both trees are compared, what lies in upper is compared, and each upper is mounted by the other side
and compared again. Of the subject alone: lowers untouched, work empty, numbers constant.

Must not forgive anything that is not a rule with a reason, written down where it is applied.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from testing.oracle import snapshot
from testing.oracle.case import Case, Op
from testing.oracle.descriptor_rules import OldReaders, UnlinkedLinks, UnlinkedLower
from testing.oracle.difference import Difference
from testing.oracle.history_rules import EmptyChowns
from testing.oracle.operations import Outcome
from testing.oracle.own_rules import OwnRules, refuses_closed_root
from testing.oracle.rules import (
    FailedOperations,
    PartedWays,
    is_ghost_out_of_reach,
    is_name_too_long_for_a_mark,
    is_other_check_first,
    is_parting,
    is_removal_of_no_acl,
    is_resurrection,
    is_stale_to_write,
    is_truncation_to_the_same_size,
    with_counted_links,
    with_one_errno_for_not_empty,
    without_index_names,
    without_metacopy_times,
    without_unwritten_copies,
)
from testing.oracle.sides import Side, SideError
from testing.oracle.stage import Ground, OracleError, Stage, draw
from testing.oracle.worker import NoAnswerError
from testing.oracle.workload import Workload

REMOUNT = "remount"


def run(
    case: Case, reference: Side, subject: Side, ground: Ground, *, ops: int, until: str = "swap"
) -> tuple[Case, Difference | None]:
    """Try a case. Returns it with all its operations, and the first difference.

    `until` names the last phase that is of interest: shortening a case does not wait for the
    others.
    """
    with ExitStack() as cleanup:
        left = Stage("reference", reference, case, ground)
        cleanup.callback(left.close)
        case = left.build()
        right = Stage("subject", subject, case, ground)
        cleanup.callback(right.close)
        right.build()
        _check_oracle(left, right)
        outcomes, left_tree, case = _reference(left, case, ops, allocate=subject.allocates)
        right.case = left.case = case
        try:
            return case, _verdict(left, right, outcomes, left_tree, until)
        except NoAnswerError as error:
            return case, Difference("mount", "no answer", "answers", str(error))
        except SideError as error:
            if case.config.own and refuses_closed_root(str(error), (left.union.upper, right.union.upper)):
                return case, None
            return case, Difference("mount", "the mount itself failed", "mounts and ends well", str(error))


def _verdict(
    left: Stage, right: Stage, outcomes: list[Outcome], left_tree: snapshot.Snapshot, until: str
) -> Difference | None:
    lowers = right.layer_fingerprints()
    silent = right.side.opens_silently(own=right.case.config.own)
    failed = FailedOperations(right.case, outcomes, silent=silent)
    try:
        found = _subject(right, right.case, outcomes, left_tree, failed)
    except PartedWays:
        return _changed_lowers(lowers, right)
    found = found or _changed_lowers(lowers, right)
    if found or until not in ("upper", "swap"):
        return found
    found = None if right.side.records_in_files else _uppers(left, right, failed)
    if found or until == "upper":
        return found
    return _swap(left, right, left_tree, failed) or _changed_lowers(lowers, right)


def _changed_lowers(before: dict[str, object], right: Stage) -> Difference | None:
    now = right.layer_fingerprints()
    return None if now == before else Difference("lowers", "a lower layer was changed", before, now)


def _check_oracle(left: Stage, right: Stage) -> None:
    """What both sides start from must be equal, or nothing that comes after means anything."""
    pairs = [*zip(left.union.lowers, right.union.lowers, strict=True), (left.union.upper, right.union.upper)]
    marks = left.case.config.marks
    for one, other in pairs:
        found = list(snapshot.differences(_raw(one, marks), _raw(other, marks)))
        if found:
            raise OracleError(f"two builds of {one.name} differ: {found[:3]}")


def _raw(directory: Path, marks: str) -> snapshot.Snapshot:
    return snapshot.raw_upper(os.fsencode(directory), marks)


def _reference(
    left: Stage, case: Case, count: int, *, allocate: bool
) -> tuple[list[Outcome], snapshot.Snapshot, Case]:
    outcomes: list[Outcome] = []
    tree = snapshot.Snapshot()
    if case.ops:
        rounds = _split_at_remounts(case.ops)
        for number, part in enumerate(rounds):
            with left.union_mounted():
                outcomes += [left.worker.perform(op) for op in part]
                if number == len(rounds) - 1:
                    tree = left.worker.snapshot()
                else:
                    outcomes.append(("ok", None))
        return outcomes, tree, case
    workload = Workload(
        f"{case.seed} ops {case.config}",
        links=True,
        user=case.config.user,
        own=case.config.own,
        allocate=allocate,
    )
    first = count // 2
    done: list[Op] = []
    for number, share in enumerate((first, count - first)):
        with left.union_mounted():
            for op, outcome in draw(left.worker, workload, share):
                done.append(op)
                outcomes.append(outcome)
            if number == 0:
                done.append(Op(REMOUNT))
                outcomes.append(("ok", None))
            else:
                tree = left.worker.snapshot()
    return outcomes, tree, replace(case, ops=tuple(done))


def _split_at_remounts(ops: tuple[Op, ...]) -> list[list[Op]]:
    parts: list[list[Op]] = [[]]
    for op in ops:
        if op.name == REMOUNT:
            parts.append([])
        else:
            parts[-1].append(op)
    return parts


def _subject(
    right: Stage,
    case: Case,
    outcomes: list[Outcome],
    left_tree: snapshot.Snapshot,
    failed: FailedOperations,
) -> Difference | None:
    index = 0
    tree = snapshot.Snapshot()
    parts = _split_at_remounts(case.ops)
    own = right.side.name == "pyunionfs"
    numbers: dict[bytes, tuple[int, int]] | None = None
    silent = right.side.opens_silently(own=case.config.own)
    litter: list[str] = []
    unlinked, old_readers = UnlinkedLower(), OldReaders()
    links, chowns = UnlinkedLinks(), EmptyChowns(case)
    rules = OwnRules(right.union.lowers) if case.config.own else None
    for number, part in enumerate(parts):
        with right.union_mounted():
            if own and numbers is not None:
                changed = _changed_numbers(right, numbers, right.worker.numbers())
                if changed:
                    return changed
            for op in part:
                # Looking at the numbers also warms every cache; so only in every other case.
                if own and case.seed % 2:
                    outcome, complaint = right.worker.perform_watching_numbers(op)
                else:
                    outcome, complaint = right.worker.perform(op), None
                outcome = with_one_errno_for_not_empty(op, outcome)
                expected = with_counted_links(
                    with_one_errno_for_not_empty(op, outcomes[index]), outcome, index=case.config.index
                )
                expected = failed.expected(op, expected, outcome)
                if failed.times_differ:
                    expected = without_metacopy_times(expected, outcome)
                expected = links.expected(op, expected, outcome)
                forgiven = unlinked.forgives(op, expected, outcome)
                keeps = old_readers.forgives(op, expected, outcome)
                forgiven = forgiven or (keeps and right.side.uses_passthrough)
                if is_removal_of_no_acl(op, expected, outcome):
                    forgiven = forgiven or failed.has_copied_up(op)
                if case.config.index and is_removal_of_no_acl(op, outcome, expected):
                    forgiven = forgiven or outcome[1] is None or outcome[1][0] == "dir"
                forgiven = forgiven or is_other_check_first(op, expected, outcome)
                forgiven = forgiven or is_ghost_out_of_reach(case, op, expected, outcome)
                if silent and is_truncation_to_the_same_size(op, expected, outcome):
                    forgiven = failed.times_differ = True
                if right.side.records_in_files and is_name_too_long_for_a_mark(op, expected, outcome):
                    raise PartedWays
                every = right.side.uses_passthrough
                if (every or right.side.reads_large_by_passthrough) and is_stale_to_write(
                    op, expected, outcome, large_only=not every
                ):
                    raise PartedWays
                if failed.unwritten.needs_redirect(op, expected, outcome):
                    raise PartedWays
                if chowns.parts(op, outcomes[index], outcome) or is_resurrection(
                    op, outcomes[index], outcome
                ):
                    raise PartedWays
                if outcome != expected and is_parting(case, op, expected, outcome):
                    raise PartedWays
                if rules is not None:
                    rules.note(op, outcome)
                if outcome != expected and not forgiven:
                    forgiven = rules is not None and rules.forgive(op, expected, outcome, right.worker)
                if outcome != expected and not forgiven:
                    return Difference("operation", str(op), outcomes[index], outcome, index)
                if complaint is not None and not _is_forgotten(right, complaint):
                    changed_by = f"{op.name}: number changed"
                    return Difference("numbers", changed_by, "constant", complaint.text, index)
                index += 1
            if number == len(parts) - 1:
                tree = right.worker.snapshot()
            elif own:
                numbers = right.worker.numbers()
        index += 1
        if rules is not None:
            rules.remount()
        unlinked, old_readers = UnlinkedLower(), OldReaders()
        links = UnlinkedLinks()
        failed.remount()
        chowns.remount()
        # Kernel overlayfs leaves there the one whiteout that it links the others from; its next mount
        # clears it.
        litter = litter or (right.litter() if own else [])
    difference = (_complaints(right, tree) if own else None) or _trees("tree", left_tree, tree, right, failed)
    if difference is None and litter:
        difference = Difference("work", "work/work after unmount", [], litter)
    return difference


def _complaints(right: Stage, tree: snapshot.Snapshot) -> Difference | None:
    # Not asked of the kernel: without xino its d_ino is the real directory's where layers are on several
    # filesystems.
    texts = [complaint.text for complaint in tree.complaints if not _is_forgotten(right, complaint)]
    if not texts:
        return None
    return Difference("numbers", f"{texts[0]}: rules of a tree", [], texts)


def _is_forgotten(right: Stage, complaint: snapshot.Complaint) -> bool:
    """Whether the kernel forgot the object in between, when it was short of memory.

    Like a remount: see `_changed_numbers`.
    """
    path, number = complaint.path, complaint.number
    if not right.case.config.own or path is None or number is None:
        return False
    return number == _number_in_upper(right, path)


def _changed_numbers(
    right: Stage, before: dict[bytes, tuple[int, int]], after: dict[bytes, tuple[int, int]]
) -> Difference | None:
    for path in before.keys() & after.keys():
        # A mounter that may not open a file by its handle, as in a user namespace (the kernel asks
        # for CAP_DAC_READ_SEARCH outside of it), does not know anymore from what a file was copied up.
        unknown = right.case.config.own and after[path][1] == _number_in_upper(right, path)
        if before[path][1] != after[path][1] and not unknown:
            return Difference("numbers", f"{path!r}: number after a remount", before[path][1], after[path][1])
    return None


def _number_in_upper(stage: Stage, path: bytes) -> int | None:
    try:
        st = os.lstat(os.fsencode(stage.union.upper) + b"/" + path)
    except OSError:
        return None
    return None if stat.S_ISDIR(st.st_mode) else st.st_ino


def _first(phase: str, left: snapshot.Snapshot, right: snapshot.Snapshot) -> Difference | None:
    for path, what, reference, subject in snapshot.differences(left, right):
        return Difference(phase, f"{path}: {what}", reference, subject)
    return None


def _trees(
    phase: str, left: snapshot.Snapshot, right: snapshot.Snapshot, stage: Stage, failed: FailedOperations
) -> Difference | None:
    if stage.case.config.own:
        left, right = OwnRules(stage.union.lowers).trees(left, right)
    return _first(phase, failed.forgiven(left, right), right)


def _uppers(left: Stage, right: Stage, failed: FailedOperations) -> Difference | None:
    """What lies in upper: whiteouts, opaque marks, redirects, metacopies must be what the kernel writes."""
    config = right.case.config
    theirs, ours = (_raw(stage.union.upper, config.marks) for stage in (left, right))
    if config.index:
        without_index_names(theirs, ours)
    if right.side.opens_silently(own=config.own):
        without_unwritten_copies(theirs, ours)
    return _first("upper", failed.forgiven(theirs, ours), ours)


def _swap(
    left: Stage, right: Stage, left_tree: snapshot.Snapshot, failed: FailedOperations
) -> Difference | None:
    """Each side's upper mounted by the other must show the tree that both agreed on."""
    if not right.side.records_in_files:
        with right.union_mounted(left.side):
            theirs = right.worker.snapshot()
        what = f"swap: {left.side.name} on the upper of {right.side.name}"
        found = _trees(what, left_tree, theirs, right, failed)
        if found:
            return found
    with left.union_mounted(right.side):
        ours = left.worker.snapshot()
        opened = left.worker.opened_snapshot() if left.case.config.own else None
    what = f"swap: {right.side.name} on the upper of {left.side.name}"
    found = _trees(what, left_tree, ours, right, failed)
    if found or opened is None:
        return found
    with right.union_mounted(left.side):
        theirs = right.worker.opened_snapshot()
    theirs, opened = _as_seen(theirs, left_tree), _as_seen(opened, left_tree)
    return _trees("swap: what the user had closed", theirs, opened, right, failed)


def _as_seen(tree: snapshot.Snapshot, before: snapshot.Snapshot) -> snapshot.Snapshot:
    """A tree with the values of another snapshot wherever that has no errno: they are compared there."""
    nodes = {}
    for path, node in tree.nodes.items():
        known = before.nodes.get(path, {})
        nodes[path] = {what: known[what] if _is_seen(known, what) else value for what, value in node.items()}
    return snapshot.Snapshot(nodes)


def _is_seen(node: dict[str, object], what: str) -> bool:
    return what in node and node[what] not in errno.errorcode.values()
