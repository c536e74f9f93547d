"""A copy-up that takes long: what may happen between its beginning, its work and its commit.

`Wait` hands a task out; here the test decides when it runs, and does to the file in between whatever another
caller could do: the union's state is another one then, and the operation begins anew (invariants 2 and 3).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.overlay.rig import Stack, View, steps
from tests.overlay.trees import disk
from unionfs.linux.syscalls import RENAME_EXCHANGE
from unionfs.overlay.attr import Changes
from unionfs.overlay.wait import Task, Wait, complete

OLD = "the lower's data"


def begin(view: View, path: str) -> Task:
    """Open for writing, and stop where the slow work begins."""
    with pytest.raises(Wait) as wait:
        view.union.open_file(view.ino(path), os.O_WRONLY, view.caller)
    return wait.value.task


def test_nothing_has_changed_when_it_waits(stack: Stack) -> None:
    stack.layers({"f": OLD})
    with stack.open() as view:
        task = begin(view, "f")
        assert disk(stack.upper) == {}
        assert stack.work_names() == []
        assert view.read("f") == OLD.encode()
        task.run()
        assert disk(stack.upper) == {}
        assert view.read("f") == OLD.encode()
        task.finish(None)
        assert disk(stack.upper) == {"f": f"file {OLD!r} origin"}
        assert stack.work_names() == []
        assert view.union.stats()["copy_ups"] == 1


@pytest.mark.parametrize("ran", [False, True], ids=["before it ran", "after it ran"])
def test_error_leaves_nothing_and_a_retry_works(stack: Stack, ran: bool) -> None:
    stack.layers({"f": OLD})
    with stack.open() as view:
        inode = view.inode("f")
        task = begin(view, "f")
        if ran:
            task.run()
        task.finish(OSError(errno.EIO, "the disk"))
        assert disk(stack.upper) == {}
        assert stack.work_names() == []
        assert inode.pending is None
        assert view.union.stats()["copy_ups"] == 0
        view.write("f", b"T")
        assert view.read("f") == b"T" + OLD.encode()[1:]
    assert stack.work_names() == []


def test_all_who_need_it_wait_for_one_task(stack: Stack) -> None:
    stack.layers({"d": {"f": OLD}})
    with stack.open() as view:
        task = begin(view, "d/f")
        union, ino, root = view.union, view.ino("d/f"), view.caller
        d = view.ino("d")
        for other in (
            lambda: union.open_file(ino, os.O_RDWR, root),
            lambda: union.setattr(ino, Changes(mode=0o600), root, None),
            lambda: union.setattr(ino, Changes(size=0), root, None),
            lambda: union.setxattr(ino, b"user.a", b"", 0, root),
            lambda: union.link(ino, d, b"g"),
            lambda: union.rename(d, b"f", d, b"g", 0),
        ):
            with pytest.raises(Wait) as wait:
                other()
            assert wait.value.task is task
        task.run()
        task.finish(None)
        handle = union.open_file(ino, os.O_WRONLY, root)
        view.union.release(handle)
        assert union.stats()["copy_ups"] == 2  # d and d/f


def test_reader_goes_on_meanwhile(stack: Stack) -> None:
    stack.layers({"f": OLD})
    with stack.open() as view:
        reader = view.open("f")
        task = begin(view, "f")
        assert view.read_handle(reader) == OLD.encode()
        task.run()
        assert view.read_handle(reader) == OLD.encode()
        task.finish(None)
        view.write("f", b"NEW")
        assert view.read_handle(reader) == b"NEW" + OLD.encode()[3:]
        view.union.release(reader)


Act = Callable[[View], object]

MEANWHILE: dict[str, tuple[Act, dict[str, str]]] = {
    "unlink": (
        lambda view: view.unlink("d/f"),
        {"d": "dir origin", "d/f": "whiteout"},
    ),
    "unlink and create anew": (
        steps(lambda view: view.unlink("d/f"), lambda view: view.create("d/f", b"another")),
        {"d": "dir origin", "d/f": "file 'another'"},
    ),
    "unlink and mkdir": (
        steps(lambda view: view.unlink("d/f"), lambda view: view.mkdir("d/f")),
        {"d": "dir origin", "d/f": "dir opaque"},
    ),
    "another renamed over it": (
        lambda view: view.rename("d/other", "d/f"),
        {"d": "dir impure origin", "d/f": "file 'o' origin", "d/other": "whiteout"},
    ),
    "parent renamed": (
        lambda view: view.rename("d", "D"),
        {
            "D": "dir impure origin redirect=d",
            "D/f": f"file {OLD!r} origin",
            "d": "whiteout",
        },
    ),
    "parent moved": (
        lambda view: view.rename("d", "e/d"),
        {
            "d": "whiteout",
            "e": "dir impure origin",
            "e/d": "dir impure origin redirect=/d",
            "e/d/f": f"file {OLD!r} origin",
        },
    ),
    "parent exchanged": (
        lambda view: view.rename("d", "e", RENAME_EXCHANGE),
        {
            "d": "dir origin redirect=e",
            "e": "dir impure origin redirect=d",
            "e/f": f"file {OLD!r} origin",
        },
    ),
    "everything removed": (
        steps(
            lambda view: view.unlink("d/f"), lambda view: view.unlink("d/other"), lambda view: view.rmdir("d")
        ),
        {"d": "whiteout"},
    ),
}


@pytest.mark.parametrize("ran", [False, True], ids=["before it ran", "after it ran"])
@pytest.mark.parametrize("error", [None, OSError(errno.ENOSPC, "full")], ids=["well", "full disk"])
@pytest.mark.parametrize("case", MEANWHILE)
def test_namespace_changes_meanwhile(stack: Stack, case: str, error: OSError | None, ran: bool) -> None:
    act, wanted = MEANWHILE[case]
    stack.layers({"d": {"f": OLD, "other": "o"}, "e": {}})
    with stack.open() as view:
        task = begin(view, "d/f")
        ino = view.ino("d/f")
        if ran:
            task.run()
        act(view)
        if not ran:
            task.run()
        task.finish(error)
        assert view.union.inode(ino).pending is None
        if error is None:
            # The writer tries again, wherever its file now is.
            handle = complete(view.union.open_file, ino, os.O_RDWR, view.caller)
            assert view.read_handle(handle) == OLD.encode()
            view.union.release(handle)
        tree = view.tree()
        view.forget_all()
        assert view.union.stats()["inodes"] == 1
    held = disk(stack.upper)
    if error is None:
        assert held == wanted
    else:
        assert {path for path in wanted if OLD not in wanted[path]} == set(held)
    assert stack.work_names() == []
    with stack.open() as view:
        assert view.tree() == tree


@pytest.mark.parametrize("ran", [False, True], ids=["before it ran", "after it ran"])
def test_kernel_forgets_everything_meanwhile(stack: Stack, ran: bool) -> None:
    """The opener was interrupted and its lookups are gone; the task ends all the same."""
    stack.layers({"d": {"f": OLD}})
    with stack.open() as view:
        task = begin(view, "d/f")
        view.forget_all()
        if ran:
            task.run()
        assert view.exists("d/f")
        view.forget_all()
        if not ran:
            task.run()
        task.finish(None)
        assert view.union.stats()["inodes"] == 1
        assert view.read("d/f") == OLD.encode()
    assert disk(stack.upper) == {"d": "dir impure origin", "d/f": f"file {OLD!r} origin"}


def test_handle_of_an_unlinked_file_reaches_the_private_copy(stack: Stack) -> None:
    stack.layers({"f": OLD})
    with stack.open() as view:
        reader = view.open("f")
        task = begin(view, "f")
        ino = view.ino("f")
        view.unlink("f")
        task.run()
        task.finish(None)
        writer = view.union.open_file(ino, os.O_WRONLY, view.caller)
        writer.write(0, b"NEW")
        assert view.read_handle(reader) == b"NEW" + OLD.encode()[3:]
        view.union.setattr(ino, Changes(mode=0o600, mtime_ns=9), view.caller, None)
        assert view.union.getattr(ino)[1].st_mtime_ns == 9
        assert view.union.getattr(ino)[1].st_nlink == 0
        view.union.release(reader)
        view.union.release(writer)
        assert not view.exists("f")
        view.forget_all()
        assert view.union.stats()["inodes"] == 1
    assert disk(stack.upper) == {"f": "whiteout"}


def test_hard_links_wait_for_one_task(stack: Stack) -> None:
    stack.layers({"a": OLD})
    os.link(stack.lowers[0] / "a", stack.lowers[0] / "b")
    with stack.open() as view:
        task = begin(view, "a")
        with pytest.raises(Wait) as wait:
            view.union.open_file(view.ino("b"), os.O_WRONLY, view.caller)
        assert wait.value.task is task
        view.unlink("a")
        task.run()
        task.finish(None)
        view.write("b", b"NEW")
        assert view.read("b") == b"NEW" + OLD.encode()[3:]
        assert view.ls() == ["b"]
        assert view.nlink("b") == 1
    assert disk(stack.upper)["a"] == "whiteout"
    assert (stack.upper / "b").read_bytes() == b"NEW" + OLD.encode()[3:]
    assert stack.work_names() == []
