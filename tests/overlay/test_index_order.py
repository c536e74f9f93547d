"""Names of one lower file and copies of it, looked up in every order beside kernel overlayfs.

What is one file must not depend on which name was looked up first: the lower's identity is its own names' and
its index entry's, and never that of a copy that the index does not know.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.support.mounts import needs_overlayfs

ORIGIN = "trusted.overlay.origin"
NAMES = ("copy", "f", "g", "h")
pytestmark = needs_overlayfs


@pytest.fixture
def indexed(stack: Stack) -> Stack:
    """A lower file `f`, `g`, `h`, of which `f` was changed with an index, and a copy that has its origin."""
    stack.layers({"f": "lower", "d": {}})
    for name in ("g", "h"):
        os.link(stack.lowers[0] / "f", stack.lowers[0] / name)
    with stack.overlayfs(stack.work, "index=on") as merged:
        (merged / "f").write_text("indexed")
    (stack.upper / "copy").write_text("copy")
    os.setxattr(stack.upper / "copy", ORIGIN, os.getxattr(stack.upper / "f", ORIGIN))
    return stack


Seen = dict[str, tuple[int, int, int, bytes]]


def kernel(stack: Stack, order: tuple[str, ...], option: str) -> Seen:
    with stack.overlayfs(stack.work, option) as merged:
        seen = {name: (merged / name).stat() for name in order}
        return {
            name: (group(seen, name), seen[name].st_nlink, st.st_size, (merged / name).read_bytes())
            for name, st in seen.items()
        }


def group(seen: dict[str, os.stat_result], name: str) -> int:
    """Which of the files it is: the place of the first name of it."""
    return min(NAMES.index(other) for other, st in seen.items() if st.st_ino == seen[name].st_ino)


def ours(stack: Stack, order: tuple[str, ...], *, index: bool) -> Seen:
    with stack.open(index=index) as view:
        for name in order:
            view.ino(name)
        seen = {name: (view.inode(name), view.stat(name)) for name in order}
        numbers = {name: inode.ino for name, (inode, _) in seen.items()}
        return {
            name: (
                min(NAMES.index(other) for other in order if numbers[other] == numbers[name]),
                view.nlink(name),
                seen[name][1].st_size,
                view.read(name),
            )
            for name in order
        }


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)), ids="-".join)
def test_with_an_index(indexed: Stack, order: tuple[str, ...]) -> None:
    assert ours(indexed, order, index=True) == kernel(indexed, order, "index=on")


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)), ids="-".join)
def test_a_change_by_one_name_is_seen_by_all(indexed: Stack, order: tuple[str, ...]) -> None:
    with indexed.open(index=True) as view:
        for name in order:
            view.ino(name)
        view.write("h", b"changed!")
        assert [view.read(name) for name in NAMES] == [b"copy", *[b"changed!"] * 3]
        assert [view.nlink(name) for name in NAMES] == [1, 3, 3, 3]


@pytest.mark.parametrize("first", ["copy", "g"])
def test_without_an_index_a_copy_keeps_the_lowers_names_together(indexed: Stack, first: str) -> None:
    with indexed.open() as view:
        for name in (first, *NAMES):
            view.ino(name)
        assert view.ino("g") == view.ino("h")
        assert len({view.ino(name) for name in ("copy", "f", "g")}) == 3
        view.write("g", b"changed!")
        assert [view.read(name) for name in NAMES] == [b"copy", b"indexed", *[b"changed!"] * 2]


@pytest.mark.parametrize("order", list(itertools.permutations(("f", "g", "h"))), ids="-".join)
@pytest.mark.parametrize("changed", ["f", "g"])
def test_names_in_several_lowers(stack: Stack, order: tuple[str, ...], changed: str) -> None:
    """Snapshots that share files by hard links."""
    stack.layers({"f": "lower"}, {"a": ""})
    for name in ("g", "h"):
        os.link(stack.lowers[0] / "f", stack.lowers[1] / name)
    before = ours(stack, order, index=True)
    assert before == kernel(stack, order, "index=on")
    with stack.open(index=True) as view:
        for name in order:
            view.ino(name)
        view.write(changed, b"changed!")
        assert [view.read(name) for name in order] == [b"changed!"] * 3
        assert [view.nlink(name) for name in order] == [3] * 3
    after = ours(stack, order, index=True)
    assert after == kernel(stack, order, "index=on")
    assert {each[3] for each in after.values()} == {b"changed!"}


def test_a_copy_that_is_a_metacopy(stack: Stack) -> None:
    """Made without an index of a file with one name, which got a further one since."""
    stack.layers({"f": "lower"})
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o600)
    os.link(stack.lowers[0] / "f", stack.lowers[0] / "g")
    link: Path = stack.lowers[0] / "h"
    os.link(stack.lowers[0] / "f", link)
    for order in (("f", "g", "h"), ("g", "f", "h"), ("h", "g", "f")):
        with stack.open(metacopy=True, index=True) as view:
            for name in order:
                view.ino(name)
            assert view.ino("f") != view.ino("g")
            assert view.ino("g") == view.ino("h")
