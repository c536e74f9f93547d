"""With index=on upper belongs to its top lower and the index to upper, as kernel overlayfs has it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.support.mounts import needs_overlayfs
from unionfs.errors import MountError
from unionfs.overlay.lock import lock_and_check
from unionfs.overlay.super import Union

PREFIXES = pytest.mark.parametrize("userxattr", [False, True], ids=["trusted", "user"])
WHO = pytest.mark.parametrize("first", ["kernel", "pyunionfs"])


@pytest.fixture
def linked(stack: Stack) -> Stack:
    """Lowers `0:1`, with a hard link in the lower one."""
    stack.layers({"f": "f", "top": "t"}, {"g": "g"})
    os.link(stack.lowers[0] / "f", stack.lowers[0] / "l")
    return stack


def ours(stack: Stack, userxattr: bool, *, change: bool = False) -> bool:
    """Whether we take it."""
    try:
        with stack.open(index=True, userxattr=userxattr) as view:
            if change:
                view.write("f", b"changed")
    except MountError as error:
        refusal = str(error)
    else:
        return True
    assert "index=off" in refusal
    assert "--accept-lowers" in refusal
    return False


def theirs(stack: Stack, userxattr: bool, *, change: bool = False) -> bool:
    """Whether the kernel takes it."""
    try:
        with stack.overlayfs(stack.work, "index=on", *(["userxattr"] * userxattr)) as merged:
            if change:
                (merged / "f").write_text("changed")
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return False
    return True


def marks(*paths: Path) -> dict[str, dict[str, bytes]]:
    return {
        str(path): {
            name: os.getxattr(path, name) for name in os.listxattr(path) if not name.endswith(".overlay.uuid")
        }
        for path in paths
    }


def first_mount(stack: Stack, first: str, userxattr: bool) -> None:
    assert (ours if first == "pyunionfs" else theirs)(stack, userxattr, change=True)


@needs_overlayfs
@PREFIXES
def test_the_marks_are_the_kernels(linked: Stack, userxattr: bool) -> None:
    assert ours(linked, userxattr)
    mine = marks(linked.upper, linked.work / "index")
    for path in (linked.upper, linked.work / "index"):
        for name in os.listxattr(path):
            os.removexattr(path, name)
    assert theirs(linked, userxattr)
    assert mine == marks(linked.upper, linked.work / "index")
    prefix = "user" if userxattr else "trusted"
    assert [list(each) for each in mine.values()] == [
        [f"{prefix}.overlay.origin"],
        [f"{prefix}.overlay.upper"],
    ]


@needs_overlayfs
@WHO
@PREFIXES
def test_the_same_directories_are_taken_by_both(linked: Stack, first: str, userxattr: bool) -> None:
    first_mount(linked, first, userxattr)
    before = marks(linked.upper, linked.work / "index")
    assert ours(linked, userxattr)
    assert theirs(linked, userxattr)
    assert ours(linked, userxattr)
    linked.lowers.pop()  # only the top one is asked for
    assert ours(linked, userxattr)
    assert theirs(linked, userxattr)
    assert marks(linked.upper, linked.work / "index") == before


@needs_overlayfs
@WHO
@PREFIXES
def test_another_top_lower_is_refused_and_nothing_changed(linked: Stack, first: str, userxattr: bool) -> None:
    first_mount(linked, first, userxattr)
    litter = linked.work / "work" / "#9"
    litter.write_text("litter")
    before = marks(linked.upper, linked.work / "index")
    linked.lowers.reverse()
    assert not ours(linked, userxattr)
    assert litter.exists()
    assert not theirs(linked, userxattr)
    assert marks(linked.upper, linked.work / "index") == before
    with linked.open(userxattr=userxattr) as view:  # without an index nobody asks
        assert view.read("g") == b"g"
    linked.lowers.reverse()
    assert ours(linked, userxattr)


@needs_overlayfs
@WHO
@PREFIXES
@pytest.mark.parametrize("copied", ["upper", "work"])
def test_an_index_of_another_upper_is_refused(
    linked: Stack, first: str, userxattr: bool, copied: str
) -> None:
    first_mount(linked, first, userxattr)
    if copied == "upper":
        linked.upper = linked.base / "another-upper"
        linked.upper.mkdir()
    else:
        # Of an upper with a work directory of its own, which was given the wrong one.
        linked.upper, own = linked.base / "another-upper", linked.work
        linked.upper.mkdir()
        linked.work = linked.base / "another-work"
        linked.work.mkdir()
        first_mount(linked, first, userxattr)
        linked.work = own
    before = marks(linked.upper, linked.work / "index")
    assert not ours(linked, userxattr)
    assert marks(linked.upper, linked.work / "index") == before
    assert not theirs(linked, userxattr)


@needs_overlayfs
@WHO
@PREFIXES
def test_a_copied_upper_is_another_upper(linked: Stack, first: str, userxattr: bool) -> None:
    first_mount(linked, first, userxattr)
    os.rename(linked.upper, linked.base / "old")
    shutil.copytree(linked.base / "old", linked.upper, symlinks=True)
    assert not ours(linked, userxattr)
    assert not theirs(linked, userxattr)


@needs_overlayfs
@pytest.mark.parametrize("value", [b"", b"abc", b"\0\xfb", bytes((1, 0xFB, 33, 0)) + bytes(29)])
def test_a_mark_that_says_nothing_is_written_anew(linked: Stack, value: bytes) -> None:
    assert theirs(linked, False)
    good = marks(linked.upper, linked.work / "index")
    for take in (theirs, ours):
        os.setxattr(linked.upper, "trusted.overlay.origin", value)
        os.setxattr(linked.work / "index", "trusted.overlay.upper", value)
        assert take(linked, False)
        assert marks(linked.upper, linked.work / "index") == good


@needs_overlayfs
@WHO
def test_without_uuids_the_handles_have_none_either(linked: Stack, first: str) -> None:
    def kernel(uuid: str) -> bool:
        try:
            with linked.overlayfs(linked.work, "index=on", f"uuid={uuid}"):
                return True
        except OSError:
            return False

    def mine(uuid: str) -> bool:
        try:
            with linked.open(index=True, uuid=uuid):
                return True
        except MountError:
            return False

    assert (kernel if first == "kernel" else mine)("off")
    assert kernel("off")
    assert mine("off")
    assert not kernel("null")
    assert not mine("null")


@PREFIXES
@pytest.mark.parametrize("before", [False, True], ids=["new", "used"])
def test_a_mount_that_fails_later_leaves_none(linked: Stack, userxattr: bool, before: bool) -> None:
    if before:
        assert ours(linked, userxattr)
    there = marks(linked.upper), sorted(os.listdir(linked.work))
    config = linked.config(index=True, userxattr=userxattr)
    lock = lock_and_check(config)
    try:
        Union.open(config).close()
        assert marks(linked.upper)[str(linked.upper)]
        lock.undo()
    finally:
        lock.close()
    assert (marks(linked.upper), sorted(os.listdir(linked.work))) == there
