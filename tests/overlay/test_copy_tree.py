"""Renaming directories of lowers where none may write a redirect: the same tree, and an upper without."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import WHITEOUT, Tree
from tests.support.mounts import needs_overlayfs
from unionfs.overlay.super import Union
from unionfs.overlay.wait import Wait, perform

LIMITS: dict[str, Any] = {"rename_copy_bytes": 1 << 30, "rename_copy_files": 1000}
FORMS: list[dict[str, Any]] = [
    {"redirect_dir": "nofollow", "userxattr": True},
    {"redirect_dir": "follow"},
    {"redirect_dir": "follow", "whiteouts": "aufs"},
]
TOP: Tree = {"d": {"a": "top", "gone": WHITEOUT, "sub": {"x": "x"}}}
BOTTOM: Tree = {
    "d": {"a": "bottom", "b": "b" * 300_000, "gone": "gone", "sub": {"y": "y"}, "e": {}},
    "to": {},
}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    stack = Stack(tmp_path).layers(TOP, BOTTOM)
    os.link(stack.lowers[1] / "d/b", stack.lowers[1] / "d/sub/link")
    return stack


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_merged_directory_moves_with_all_that_it_shows(stack: Stack, form: dict[str, Any]) -> None:
    with stack.open(**LIMITS, **form) as view:
        view.unlink("d/sub/y")
        view.create("d/new", b"new")
        before = view.tree("d")
        number, inner = view.ino("d"), view.ino("d/b")
        view.rename("d", "to/moved")
        assert not view.exists("d")
        moved = view.tree("to/moved")
        # A merged directory shows a link count of 1, one of upper only its own: as overlayfs has it.
        assert {_uncounted(name.replace("to/moved/", "d/"), line) for name, line in moved.items()} == {
            _uncounted(name, line) for name, line in before.items()
        }
        assert (view.ino("to/moved"), view.ino("to/moved/b")) == (number, inner)
        assert view.ino("to/moved/sub/link") == inner
        whole = view.tree()
    with stack.open(**LIMITS, **form) as view:
        assert view.tree() == whole
    moved_dir = stack.upper / "to/moved"
    assert not [p for p in moved_dir.rglob("*") if p.is_char_device()]
    assert {p.name for p in moved_dir.rglob(".wh.*")} <= {".wh..wh..opq"}
    for path in [moved_dir, *moved_dir.rglob("*")]:
        assert not [name for name in os.listxattr(path) if name.endswith("redirect")]


@needs_overlayfs
@pytest.mark.parametrize("form", FORMS[:2], ids=str)
def test_kernel_overlayfs_shows_the_same_tree_of_that_upper(stack: Stack, form: dict[str, Any]) -> None:
    with stack.open(**LIMITS, **form) as view:
        view.unlink("d/sub/y")
        view.rename("d", "to/moved")
        whole = view.tree()
    theirs = stack.kernel(*(["userxattr"] if form.get("userxattr") else []))
    files = {name for name, line in whole.items() if line.startswith("file")}
    assert {name: theirs[name] for name in files} == {name: whole[name] for name in files}
    assert theirs.keys() == whole.keys()


@pytest.mark.parametrize(
    "limit", [{"rename_copy_bytes": 1000}, {"rename_copy_files": 3}, {"rename_copy_files": 0}]
)
def test_above_a_limit_it_is_exdev_and_upper_is_untouched(stack: Stack, limit: dict[str, Any]) -> None:
    with stack.open(**{**LIMITS, "redirect_dir": "follow", **limit}) as view:
        with pytest.raises(OSError) as caught:
            view.rename("d", "moved")
        assert caught.value.errno == errno.EXDEV
        assert os.listdir(stack.upper) == []


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_changes_while_it_is_copied_are_kept(stack: Stack, form: dict[str, Any]) -> None:
    """At every pause another request writes, creates and removes; the end shows all of it."""
    with stack.open(**LIMITS, **form) as view:
        reader = view.open("d/a")
        union: Union = view.union
        made: list[str] = []
        while True:
            try:
                union.rename(1, b"d", 1, b"moved", 0)
                break
            except Wait as wait:
                task = wait.task
            name = f"d/e/new{len(made)}"
            view.create(name, b"made")
            made.append(name)
            view.write("d/a", b"T%d" % len(made))
            perform(task)
        assert made
        written = b"T%d" % len(made)
        assert view.read_handle(reader) == view.read("moved/a") == written + b"top"[len(written) :]
        view.union.release(reader)
        assert view.ls("moved/e") == sorted(name.removeprefix("d/e/") for name in made)


def _uncounted(name: str, line: str) -> tuple[str, str]:
    return name, re.sub(" x[0-9]+ ", " ", line) if line.startswith("dir") else line


def test_with_a_timeout_it_is_exdev(stack: Stack) -> None:
    stack.timeout = 1
    with stack.open(redirect_dir="follow", **LIMITS) as view:
        with pytest.raises(OSError) as caught:
            view.rename("d", "moved")
        assert caught.value.errno == errno.EXDEV
