"""Copies that are prepared before anybody asks: used where they fit, gone without a trace where not."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable

import pytest

from tests.overlay.rig import Stack, View, steps
from tests.overlay.trees import TIME_NS, Tree, disk, file, symlink
from unionfs.overlay import copy_up
from unionfs.overlay.attr import Changes
from unionfs.overlay.copy_data import INLINE
from unionfs.overlay.wait import BackgroundJob, Wait

NAMES = [f"f{number:02}" for number in range(30)]
TREE: Tree = {"d": {name: f"the data of {name}" for name in NAMES}, "e": {"g": "g", "h": "h"}}


def chmod(view: View, name: str, directory: str = "d") -> None:
    view.chmod(f"{directory}/{name}", 0o600)


def begin(view: View, tree: Tree = TREE) -> list[str]:
    """Know all names as a listing makes them known, and change so many files that it looks like many."""
    names = [name for name in tree["d"] if name]  # type: ignore[union-attr]
    for name in names:
        view.inode(f"d/{name}")
    for name in names[:4]:
        chmod(view, name)
    return names[4:]


def work(view: View) -> int:
    """Do what was left to workers; returns how much."""
    jobs = view.union.take_background_jobs()
    for job in jobs:
        job.run()
    return len(jobs)


def expected(names: list[str]) -> dict[str, str]:
    files = {f"d/{name}": f"file {f'the data of {name}'!r} origin" for name in names}
    return {"d": "dir impure origin"} | files


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The temporary names of what is copied from now on."""
    done: list[bytes] = []
    true_prepare = copy_up.FileCopyUp.prepare

    def prepare(self: copy_up.FileCopyUp) -> None:
        done.append(self._temp)
        true_prepare(self)

    monkeypatch.setattr(copy_up.FileCopyUp, "prepare", prepare)
    return done


def test_what_is_prepared_is_used(stack: Stack, copied: list[bytes]) -> None:
    stack.layers(TREE)
    with stack.open() as view:
        rest = begin(view)
        assert work(view) == 4
        assert len(stack.work_names()) == 16
        assert disk(stack.upper) == expected(NAMES[:4]), "nothing appears that nobody has changed"
        copied.clear()
        for name in rest[:16]:
            # No slow work is asked for.
            _, st = view.union.setattr(view.ino(f"d/{name}"), Changes(mode=0o640), view.caller, None)
            assert (st.st_mode & 0o7777, st.st_mtime_ns) == (0o640, TIME_NS)
            assert view.read(f"d/{name}") == f"the data of {name}".encode()
        assert copied == []
        assert disk(stack.upper) == expected(NAMES[:20])
        assert view.union.stats()["copy_ups"] == 21
    assert stack.work_names() == []


def test_all_of_a_directory(stack: Stack, copied: list[bytes]) -> None:
    stack.layers(TREE)
    with stack.open() as view:
        for name in begin(view):
            work(view)
            chmod(view, name)
        assert disk(stack.upper) == expected(NAMES)
        assert stack.work_names() == []
        assert len(copied) == len(NAMES), "each was copied once"


def test_appending(stack: Stack) -> None:
    stack.layers(TREE)
    with stack.open() as view:
        for name in begin(view):
            work(view)
            path = f"d/{name}"
            view.write(path, b"!", offset=view.stat(path).st_size)
            assert view.read(path) == f"the data of {name}!".encode()
        assert stack.work_names() == []


def test_no_worker_has_come_yet(stack: Stack) -> None:
    stack.layers(TREE)
    with stack.open() as view:
        rest = begin(view)
        late = view.union.take_background_jobs()
        for name in rest:
            chmod(view, name)
        late += view.union.take_background_jobs()
        for job in late:
            job.run()
        assert disk(stack.upper) == expected(NAMES)
        assert stack.work_names() == []


def test_a_worker_is_at_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the operation waits for that very copy."""
    stack.layers(TREE)
    at, go = threading.Event(), threading.Event()
    true_write_out = copy_up.FileCopyUp.write_out_data

    def write_out_data(self: copy_up.FileCopyUp) -> None:
        at.set()
        assert go.wait(10)
        true_write_out(self)

    with stack.open() as view:
        rest = begin(view)
        monkeypatch.setattr(copy_up.FileCopyUp, "write_out_data", write_out_data)
        job, *_ = view.union.take_background_jobs()
        worker = threading.Thread(target=job.run)
        worker.start()
        assert at.wait(10)
        ino = view.ino(f"d/{rest[0]}")
        tasks = []
        for _ in range(2):
            with pytest.raises(Wait) as wait:
                view.union.setattr(ino, Changes(mode=0o600), view.caller, None)
            tasks.append(wait.value.task)
        assert tasks[0] is tasks[1]
        go.set()
        tasks[0].run()
        tasks[0].finish(None)
        view.union.setattr(ino, Changes(mode=0o600), view.caller, None)
        worker.join()
        assert disk(stack.upper) == expected(NAMES[:5])
    assert stack.work_names() == []


def test_the_worker_fails(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told; who wants the file copies it himself, and is told what comes of that."""
    stack.layers(TREE)

    def full(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with stack.open() as view:
        rest = begin(view)
        with monkeypatch.context() as patch:
            patch.setattr(copy_up, "copy_data", full)
            work(view)
            with pytest.raises(OSError) as failure:
                chmod(view, rest[0])
            assert failure.value.errno == errno.ENOSPC
        for name in rest:
            chmod(view, name)
        assert disk(stack.upper) == expected(NAMES)
        assert stack.work_names() == []


def test_the_worker_fails_while_somebody_waits(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.layers(TREE)
    at, go = threading.Event(), threading.Event()

    def write_out_data(self: copy_up.FileCopyUp) -> None:
        at.set()
        assert go.wait(10)
        raise OSError(errno.EIO, "the disk")

    with stack.open() as view:
        rest = begin(view)
        ino = view.ino(f"d/{rest[0]}")
        job, *_ = view.union.take_background_jobs()
        with monkeypatch.context() as patch:
            patch.setattr(copy_up.FileCopyUp, "write_out_data", write_out_data)
            worker = threading.Thread(target=job.run)
            worker.start()
            assert at.wait(10)
            with pytest.raises(Wait) as wait:
                view.union.setattr(ino, Changes(mode=0o600), view.caller, None)
            go.set()
            task = wait.value.task
            with pytest.raises(OSError) as failure:
                task.run()
            task.finish(failure.value)
            worker.join()
        assert disk(stack.upper) == expected(NAMES[:4])
        chmod(view, rest[0])
        assert disk(stack.upper) == expected(NAMES[:5])
    assert stack.work_names() == []


def cut(view: View) -> None:
    view.union.release(view.open("d/f04", os.O_WRONLY | os.O_TRUNC))


OTHERWISE: dict[str, Callable[[View], object]] = {
    "unlinked": lambda view: view.unlink("d/f04"),
    "cut": cut,
    "truncated": lambda view: view.change("d/f04", size=0),
    "renamed": lambda view: view.rename("d/f04", "d/other"),
    "moved": lambda view: view.rename("d/f04", "e/other"),
    "replaced": lambda view: view.rename("e/g", "d/f04"),
    "linked": lambda view: view.link("d/f04", "e/other"),
    "an attribute": lambda view: view.setxattr("d/f04", "user.x", b"x"),
    "forgotten": lambda view: view.forget_all(),
    "renamed, then changed": steps(
        lambda view: view.rename("e/h", "e/i"),
        lambda view: view.rename("d", "D"),
        lambda view: view.chmod("D/f04", 0o600),
    ),
}


@pytest.mark.parametrize("ran", [False, True], ids=["not prepared", "prepared"])
@pytest.mark.parametrize("how", OTHERWISE)
def test_same_as_without(stack: Stack, how: str, ran: bool) -> None:
    """Whatever is done to a file whose copy is ready."""
    stack.layers(TREE)
    seen = []
    for attempt, needed in enumerate((4, 1000)):
        with stack.open() as view:
            view.union.fs.prefetch._needed = needed
            rest = begin(view)
            assert rest[0] == "f04"
            if ran:
                assert work(view) == (4 if needed == 4 else 0)
            OTHERWISE[how](view)
            tree = {path: re.sub(r" (?!10{8})\d{19}", " now", line) for path, line in view.tree().items()}
            seen.append((tree, disk(stack.upper)))
        assert stack.work_names() == []
        for path in (stack.upper, stack.work):
            path.rename(stack.base / f"{path.name}-{attempt}")
            path.mkdir()
    assert seen[0] == seen[1]


def test_going_elsewhere_throws_away(stack: Stack) -> None:
    stack.layers(TREE)
    with stack.open() as view:
        begin(view)
        work(view)
        assert len(stack.work_names()) == 16
        chmod(view, "g", "e")
        assert stack.work_names() == []
        # And next time it takes more to be believed.
        for name in NAMES[4:8]:
            chmod(view, name)
        assert view.union.take_background_jobs() == []
        for name in NAMES[8:12]:
            chmod(view, name)
        assert len(view.union.take_background_jobs()) == 4


def test_going_elsewhere_while_a_worker_is_at_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.layers(TREE)
    at, go = threading.Event(), threading.Event()
    true_write_out = copy_up.FileCopyUp.write_out_data

    def write_out_data(self: copy_up.FileCopyUp) -> None:
        at.set()
        assert go.wait(10)
        true_write_out(self)

    with stack.open() as view:
        begin(view)
        with monkeypatch.context() as patch:
            patch.setattr(copy_up.FileCopyUp, "write_out_data", write_out_data)
            job, *_ = view.union.take_background_jobs()
            worker = threading.Thread(target=job.run)
            worker.start()
            assert at.wait(10)
        chmod(view, "g", "e")
        assert len(stack.work_names()) == 4
        go.set()
        worker.join()
        chmod(view, "f20")
        assert stack.work_names() == []


@pytest.mark.parametrize("ran", [False, True])
def test_unmount(stack: Stack, ran: bool) -> None:
    stack.layers(TREE)
    jobs: list[BackgroundJob] = []
    with stack.open() as view:
        begin(view)
        if ran:
            work(view)
        else:
            jobs = view.union.take_background_jobs()
    for job in jobs:
        job.run()
    assert stack.work_names() == []


def test_what_is_left_alone(stack: Stack, copied: list[bytes]) -> None:
    """Large files, empty ones, ones with several names, what is no file, and what is in upper already."""
    special: Tree = {
        "big": file("", size=INLINE + 1),
        "empty": "",
        "link": symlink("x"),
        "linked": "data",
        "dir": {},
        "up": "data",
    }
    tree: Tree = {"d": {**{f"a{number}": "data" for number in range(4)}, **special, "good": "data"}}
    stack.layers(tree)
    os.link(stack.lowers[0] / "d/linked", stack.lowers[0] / "other")
    with stack.open() as view:
        chmod(view, "up")
        view.chmod("d/dir", 0o700)
        view.union.fs.prefetch.close()
        begin(view, tree)
        copied.clear()
        work(view)
        assert len(copied) == 1
        assert [(stack.work / "work" / name).read_bytes() for name in stack.work_names()] == [b"data"]


@pytest.mark.parametrize("options", [{"volatile": True}, {"metacopy": True}], ids=str)
def test_not_where_there_is_nothing_to_wait_for(stack: Stack, options: dict[str, bool]) -> None:
    stack.layers(TREE)
    with stack.open(**options) as view:
        for name in begin(view):
            chmod(view, name)
        assert view.union.take_background_jobs() == []


def test_not_where_layers_change_underneath(stack: Stack) -> None:
    stack.timeout = 1.0
    stack.layers(TREE)
    with stack.open() as view:
        for name in begin(view):
            chmod(view, name)
        assert view.union.take_background_jobs() == []
