"""Renaming directories of lowers where none may write a redirect: the same tree, and an upper without."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import WHITEOUT, Tree
from tests.support.mounts import needs_overlayfs
from unionfs.linux.syscalls import RENAME_EXCHANGE as EXCHANGE
from unionfs.linux.syscalls import RENAME_NOREPLACE as NOREPLACE
from unionfs.overlay.copy_up import FileCopyUp
from unionfs.overlay.super import Union
from unionfs.overlay.wait import Wait, give_up, perform

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


# --- what does not come about is undone -----------------------------------------------------------


def _steps(view: View, interfere: Callable[[int], None]) -> int:
    """Rename d to moved in steps as a transport does; before each, *interfere* is told its number."""
    union, step = view.union, 0
    while True:
        try:
            union.rename(1, b"d", 1, b"moved", 0)
            return step
        except Wait as wait:
            task, owner = wait.task, wait.owner
        try:
            interfere(step)
            perform(task)
        except BaseException:
            if owner is not None:
                give_up(owner, task)
            raise
        step += 1


def _let_go(view: View) -> None:
    view.forget_all()
    assert not view.union.fs.plain_steps
    assert view.union.fs.under_way.report() == []
    assert list(view.union.fs.table.in_use()) == [1]


@pytest.fixture
def plain(tmp_path: Path) -> Stack:
    """Files with one name each: what is fully undone."""
    return Stack(tmp_path).layers(TOP, BOTTOM)


def _fails_at(monkeypatch: pytest.MonkeyPatch, at: int, code: int) -> None:
    """The copying of the file number *at* fails, by a worker or in place."""
    prepare, seen = FileCopyUp.prepare, []

    def failing(self: FileCopyUp) -> None:
        seen.append(self)
        if len(seen) > at:
            raise OSError(code, os.strerror(code))
        prepare(self)

    monkeypatch.setattr(FileCopyUp, "prepare", failing)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_enospc_in_the_middle_leaves_no_trace(
    plain: Stack, form: dict[str, Any], known: bool, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain.open(**LIMITS, **form) as view:
        before = view.tree()
        if not known:
            view.forget_all()
        with monkeypatch.context() as patch:
            _fails_at(patch, at, errno.ENOSPC)
            with pytest.raises(OSError) as caught:
                view.rename("d", "moved")
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(plain.upper) == []
        assert view.tree() == before
        view.write("d/b", b"B")
        assert view.read("d/b")[:2] == b"Bb"
        assert (plain.upper / "d/b").exists()
        view.rename("d", "moved")
        assert view.read("moved/b")[:2] == b"Bb"
        _let_go(view)


@pytest.mark.parametrize("stop", range(0, 40, 3))
def test_one_that_is_given_up_is_undone(plain: Stack, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unionfs.overlay.copy_tree._SLICE", 0.0)

    def killed(step: int) -> None:
        if step == stop:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    with plain.open(redirect_dir="follow", **LIMITS) as view:
        before = view.tree()
        closes = False
        try:
            _steps(view, killed)
        except InterruptedError:
            upper = [path for path in plain.upper.rglob("*") if path.is_dir()]
            closes = any("trusted.overlay.opaque" in os.listxattr(path) for path in upper)
            assert closes or os.listdir(plain.upper) == []
            assert {name: _uncounted(name, line) for name, line in view.tree().items()} == {
                name: _uncounted(name, line) for name, line in before.items()
            }
            view.rename("d", "moved")
        assert view.read("moved/a") == b"top"
        assert not view.exists("d")
        _let_go(view)


@pytest.mark.parametrize("what", ["write", "replace", "chmod", "open", "create", "remove", "dirtime", "away"])
def test_what_changed_meanwhile_is_not_undone(
    plain: Stack, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All has been copied when another request changes something, and then the rename is given up."""
    monkeypatch.setattr("unionfs.overlay.copy_tree._SLICE", 0.0)
    held: list[Any] = []

    with plain.open(redirect_dir="follow", **LIMITS) as view:

        def change(step: int) -> None:
            if not (plain.upper / "d/sub/x").exists() or not (plain.upper / "d/a").exists():
                return
            if what == "write":
                view.write("d/a", b"TOP")
            elif what == "replace":
                view.unlink("d/a")
                view.create("d/a", b"new")
            elif what == "chmod":
                view.chmod("d/a", 0o600)
            elif what == "open":
                held.append(view.open("d/a"))
            elif what == "create":
                view.create("d/sub/new", b"new")
            elif what == "remove":
                view.unlink("d/a")
            elif what == "dirtime":
                view.create("d/sub/new", b"")
                view.unlink("d/sub/new")
            else:
                view.rename("d/a", "a")
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

        with pytest.raises(InterruptedError):
            _steps(view, change)
        after = view.tree()
        assert ("d/a" in after) == (what not in ("remove", "away"))
        if what == "write":
            assert view.read("d/a") == b"TOP"
        elif what == "replace":
            assert view.read("d/a") == b"new"
        elif what == "chmod":
            assert view.stat("d/a").st_mode & 0o777 == 0o600
        elif what == "open":
            view.write("d/a", b"TOP")
            assert view.read_handle(held[0]) == b"TOP"
            view.union.release(held[0])
        elif what == "create":
            assert view.read("d/sub/new") == b"new"
        elif what == "dirtime":
            times = os.stat(plain.lowers[0] / "d/sub").st_mtime_ns
            assert view.stat("d/sub").st_mtime_ns != times
        elif what == "away":
            assert view.read("a") == b"top"
        assert not (plain.upper / "d/b").exists()
        _let_go(view)
        whole = view.tree()
    with plain.open(redirect_dir="follow", **LIMITS) as view:
        assert view.tree() == whole


def test_no_room_is_seen_before_anything_is_copied(plain: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain.open(redirect_dir="follow", **LIMITS) as view:
        monkeypatch.setattr(view.union.fs, "may_clone", False)
        real = os.fstatvfs

        def full(fd: int) -> SimpleNamespace:
            space = real(fd)
            return SimpleNamespace(f_bavail=1, f_frsize=space.f_frsize, f_files=0, f_favail=0)

        with monkeypatch.context() as patch:
            patch.setattr("unionfs.overlay.copy_tree.os.fstatvfs", full)
            with pytest.raises(OSError) as caught:
                view.rename("d", "moved")
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(plain.upper) == []
        _let_go(view)


# --- the flags of rename ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_flags_and_targets(stack: Stack, form: dict[str, Any]) -> None:
    with stack.open(**LIMITS, **form) as view:
        with pytest.raises(FileExistsError):
            view.rename("d", "to", NOREPLACE)
        inside = view.ls("d")
        view.rename("d", "free", NOREPLACE)
        view.rename("free", "to")  # an empty directory of a lower
        assert (view.ls("to"), view.ls()) == (inside, ["to"])
        view.rename("to", "d")  # over the whiteout that it left
        assert (view.ls("d"), view.ls()) == (inside, ["d"])
        whole = view.tree()
    with stack.open(**LIMITS, **form) as view:
        assert view.tree() == whole


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_two_directories_of_lowers_are_exchanged(stack: Stack, form: dict[str, Any]) -> None:
    with stack.open(**LIMITS, **form) as view:
        inside = view.ls("d")
        view.rename("d", "to", EXCHANGE)
        assert (view.ls("to"), view.ls("d")) == (inside, [])
        whole = view.tree()
    with stack.open(**LIMITS, **form) as view:
        assert view.tree() == whole


def test_a_file_that_came_in_by_a_rename_comes_along(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look at its name and the opaque mark a lower's name gets into the directory."""
    monkeypatch.setattr("unionfs.overlay.copy_tree._SLICE", 0.0)
    (stack.lowers[1] / "late").mkdir()
    for at in range(60):
        (stack.lowers[1] / f"late/{at}").write_text(str(at))
    with stack.open(redirect_dir="follow", **LIMITS) as view:

        def move_in(step: int) -> None:
            if step < 60:
                view.rename(f"late/{step}", f"d/late{step}")

        assert _steps(view, move_in) > 60
        assert {view.read(f"moved/late{at}") for at in range(60)} == {b"%d" % at for at in range(60)}
        assert len(view.ls("moved")) == 60 + 4


def test_metacopies_get_their_data_before_a_directory_hides_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unionfs.overlay.copy_tree._SLICE", 0.0)
    with stack.open(metacopy=True) as view:
        for path in ("d/a", "d/b", "d/sub/y"):
            view.chmod(path, 0o640)
    with stack.open(redirect_dir="follow", metacopy=True, **LIMITS) as view:

        def metacopy(step: int) -> None:
            """One that comes into being when all has been copied."""
            if step == 12:
                view.chmod("d/sub/x", 0o600)

        _steps(view, metacopy)
        assert view.read("moved/a") == b"top"
        assert view.read("moved/b") == b"b" * 300_000
        assert view.read("moved/sub/y") == b"y"
        assert view.read("moved/sub/x") == b"x"
        marks = [
            p for p in (stack.upper / "moved").rglob("*") if "trusted.overlay.metacopy" in os.listxattr(p)
        ]
        assert not marks
