"""When a check mends what it found: with the right lowers, with consent, once more after it was cut off."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.offline.checking import check, repair, shown, trees
from tests.offline.defects import NOTHING
from tests.offline.planting import (
    BOTH,
    foreign_origin,
    move_lower,
    new_directory,
    origin_of,
    put,
    used,
    whiteout,
)
from tests.overlay.rig import Stack, View
from tests.overlay.trees import USER, marks
from tests.support.mounts import needs_overlayfs
from unionfs.cli import check as command
from unionfs.offline import repair as mending
from unionfs.offline.findings import Consent
from unionfs.offline.stack import open_stack
from unionfs.overlay.cred import Caller

pytestmark = needs_overlayfs


UID = 12345


def test_with_other_lowers_nothing_is_mended_that_depends_on_them(stack: Stack) -> None:
    """A forgotten lower makes whiteouts look like ones over nothing: removing them would undo deletions."""
    used(stack)
    right = stack.config(**BOTH)
    before = trees(stack, **BOTH)
    wrong = replace(right, lowers=right.lowers[:1])
    outcomes = repair(wrong)
    assert {str(each.finding.kind) for each in outcomes} == {"lowers", "whiteout", "redirect", "metacopy"}
    assert [each for each in outcomes if each.done] == []
    assert all("--accept-lowers" in (each.left or "") for each in outcomes if each.finding.repair)
    mendable = sum(each.finding.repair is not None for each in outcomes)
    for each in (outcomes, mending.preview(check(wrong))):
        advice = {str(one.finding.kind): one.next_step for one in each if one.finding.repair}
        assert all(text.startswith("give the right lowers first") for text in advice.values())
        assert "whiteout" in advice
    summary = command._summary(mending.preview(check(wrong)), 9, repaired=False)
    assert summary.endswith(f"; --repair --accept-lowers can repair {mendable}")
    assert "; --repair can" not in summary
    assert check(right) == []
    assert trees(stack, **BOTH) == before


def test_a_lower_on_a_filesystem_that_is_missing_counts_as_other_lowers(stack: Stack) -> None:
    used(stack)
    config = stack.config(**BOTH)
    foreign_origin(stack)
    whiteout(stack.upper / "nothing")
    assert [each.done for each in repair(config)] == [None, None]
    outcomes = repair(config, [Consent.LOWERS])
    assert [str(each.finding.kind) for each in outcomes if each.done] == ["whiteout"]


def test_copied_lowers_can_be_accepted(stack: Stack) -> None:
    """On the same filesystem, and the old ones are still there: to the upper these are strangers."""
    used(stack)
    copies = []
    for lower in stack.lowers:
        shutil.copytree(lower, stack.base / f"copy-of-{lower.name}", symlinks=True)
        copies.append(stack.base / f"copy-of-{lower.name}")
    stack.lowers = copies
    config = stack.config(metacopy=True)
    whiteout(stack.upper / "nothing")
    before = trees(stack, metacopy=True)
    findings = shown(check(config), stack.base)
    assert (*NOTHING, "upper/nothing") in findings
    assert {each for each in findings if each[0] == "lowers"}
    assert [each.done for each in repair(config) if each.finding.needs_lowers] == [None]
    repair(config, [Consent.LOWERS])
    assert check(config) == []
    assert trees(stack, metacopy=True) == before


def test_a_mend_that_is_cut_off_changes_nothing_that_is_shown(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the one that takes two steps: opaque, and not yet without its redirect."""
    used(stack)
    move_lower(stack)
    config = stack.config(**BOTH)
    before = trees(stack, **BOTH)

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "removexattr", cut_off)
        with pytest.raises(KeyboardInterrupt):
            repair(config)
    assert marks(stack.upper / "here")["opaque"] == b"y"
    assert marks(stack.upper / "here")["redirect"] == b"moved"
    assert trees(stack, **BOTH) == before
    repair(config)
    assert not [each for each in check(config) if each.kind != "origin"]
    assert trees(stack, **BOTH) == before


def test_as_an_ordinary_user(base: Path) -> None:
    """Upper's modes keep its owner out; they are as they were afterwards."""
    stack = Stack(base).layers({"f": "f", "d": {"g": "g"}})
    stack.upper.joinpath("closed").mkdir()
    stack.upper.joinpath("file").write_text("content")
    put(stack.upper / "file", "opaque", b"y", USER)
    whiteout(stack.upper / "closed/nothing")
    litter = new_directory(stack.work / "work/#1/closed")
    (litter / "x").touch()
    for path in (stack.upper, stack.work, *stack.upper.rglob("*"), *stack.work.rglob("*")):
        os.chown(path, UID, UID)
    for path, mode in ((stack.upper / "closed", 0o500), (stack.upper / "file", 0o000), (litter, 0o000)):
        path.chmod(mode)
    for above in (stack.base, *stack.base.parents):
        above.chmod(above.stat().st_mode | 0o011)
    config = stack.config(userxattr=True, redirect_dir="nofollow")
    before = shown(check(config, user=UID), stack.base)
    assert before == {
        ("opaque", "warning", "upper/file"),
        (*NOTHING, "upper/closed/nothing"),
        ("litter", "warning", "work/work/#1"),
    }
    outcomes = repair(config, user=UID)
    assert [each.finding for each in outcomes if each.done is None] == []
    assert check(config, user=UID) == []
    assert (stack.upper / "closed").stat().st_mode & 0o777 == 0o500
    assert (stack.upper / "file").stat().st_mode & 0o777 == 0
    assert (stack.upper / "file").read_text() == "content"


def test_other_lowers_as_an_ordinary_user(base: Path) -> None:
    """Who may not open handles sees that lower directories are missing, and mends nothing by the lowers."""
    stack = Stack(base).layers({"a": "a"}, {"d": {"f": "f"}, "gone": ""})
    for path in (stack.upper, stack.work):
        os.chown(path, UID, UID)
    for above in (stack.base, *stack.base.parents):
        above.chmod(above.stat().st_mode | 0o011)
    config = stack.config(userxattr=True, redirect_dir="nofollow")
    # Lowers of the same user, who else could not copy them up.
    for path in (path for lower in stack.lowers for path in (lower, *lower.rglob("*"))):
        os.chown(path, UID, -1)
    os.seteuid(UID)  # from the beginning: a union of root's would have this process keep its capabilities
    try:
        with View(config, Caller(UID, os.getegid(), 0, 0o022)) as view:
            view.write("d/f", b"F")
            view.unlink("gone")
    finally:
        os.seteuid(0)
    assert check(config, user=UID) == []
    wrong = replace(config, lowers=config.lowers[:1])
    assert shown(check(wrong, user=UID), stack.base) == {
        (*NOTHING, "upper/gone"),
        ("lowers", "note", "upper/d"),
    }
    assert [each.done for each in repair(wrong, user=UID)] == [None, None]
    assert check(config, user=UID) == []


def test_a_mend_looks_again(stack: Stack) -> None:
    """What has changed since the check is left alone."""
    used(stack)
    config = stack.config(**BOTH)
    whiteout(stack.upper / "nothing")
    put(stack.upper / "a", "origin", b"malformed")
    (stack.work / "work/#1").touch()
    findings = check(config)
    assert len(findings) == 3
    (stack.upper / "nothing").unlink()
    (stack.upper / "nothing").write_text("precious")
    put(stack.upper / "a", "origin", b"other")
    with open_stack(config, writable=True) as layers:
        outcomes = list(mending.repair(layers, findings, []))
    assert [each.done is None for each in outcomes] == [False, True, True]
    assert all(each.left and "has changed" in each.left for each in outcomes[1:])
    assert (stack.upper / "nothing").read_text() == "precious"
    assert origin_of(stack.upper / "a") == b"other"
