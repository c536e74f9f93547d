"""What the union tells of its slow work: from the moment that somebody waits for it until it is in place."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.test_copy_up_waits import begin
from tests.overlay.trees import file
from unionfs.overlay import copy_data, readdir
from unionfs.overlay.attr import Changes
from unionfs.overlay.copy_data import INLINE
from unionfs.overlay.wait import Wait, complete

CHUNK = 256 * 1024
SIZE = 4 * CHUNK - 100


def works(view: View) -> list[dict[str, Any]]:
    """All of it, without the seconds, which must be few."""
    found: list[dict[str, Any]] = [dict(work) for work in view.union.under_way()]
    for work in found:
        assert 0 <= work.pop("seconds") < 60
    return found


def copying(done: int, step: str = "copying", path: str = "/d/big") -> list[dict[str, Any]]:
    return [{"work": "copy_up", "path": path, "step": step, "done": done, "total": SIZE}]


@pytest.mark.parametrize("way", ["copy_file_range", "read and write"])
def test_a_copy_up_tells_how_far_it_is(stack: Stack, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    stack.layers({"d": {"big": file(os.urandom(SIZE))}})
    seen: list[object] = []
    call = "copy_file_range" if way == "copy_file_range" else "pwrite"
    real = getattr(os, call)

    def looked_at(*arguments: Any) -> int:
        seen.append(works(view))
        done: int = real(*arguments)
        return done

    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "cannot")

    monkeypatch.setattr(os, "copy_file_range", cannot)
    monkeypatch.setattr(os, call, looked_at)
    monkeypatch.setattr(copy_data, "_CHUNK", CHUNK)
    monkeypatch.setattr(copy_data, "_BUFFER", CHUNK)
    with stack.open() as view:
        view.union.fs.may_clone = False
        view.union.fs.write_out = lambda fd, shared: seen.append(works(view))
        assert works(view) == []
        task = begin(view, "d/big")
        assert works(view) == copying(0, "waiting")
        task.run()
        assert seen == [
            *(copying(done) for done in range(0, SIZE, CHUNK)),
            copying(SIZE, "writing_out"),
        ]
        task.finish(None)
        assert works(view) == []


def test_holes_are_done_at_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.layers({"d": {"big": ""}})
    with (stack.lowers[0] / "d/big").open("r+b") as sparse:
        sparse.truncate(SIZE)
        sparse.seek(2 * CHUNK)
        sparse.write(b"x" * 4096)
    seen: list[object] = []
    with stack.open() as view:
        view.union.fs.may_clone = False
        view.union.fs.write_out = lambda fd, shared: seen.append(works(view))
        task = begin(view, "d/big")
        task.run()
        task.finish(None)
    assert seen == [copying(2 * CHUNK + 4096, "writing_out")]


def test_an_error_ends_it(stack: Stack) -> None:
    stack.layers({"d": {"big": file(bytes(SIZE))}})
    with stack.open() as view:
        task = begin(view, "d/big")
        task.finish(OSError(errno.EIO, "the disk"))
        assert works(view) == []


def test_small_files_are_not_noted(stack: Stack) -> None:
    """Their copying costs less than a look at it."""
    stack.layers({"small": file(bytes(INLINE)), "large": file(bytes(INLINE + 1))})
    with stack.open() as view:
        for name, wanted in (("small", []), ("large", ["/large"])):
            task = begin(view, name)
            assert [work["path"] for work in works(view)] == wanted
            task.run()
            task.finish(None)


def test_the_one_that_began_first_comes_first(stack: Stack) -> None:
    stack.layers({name: file(bytes(SIZE)) for name in "abc"})
    with stack.open() as view:
        tasks = {name: begin(view, name) for name in "cab"}
        assert [work["path"] for work in works(view)] == ["/c", "/a", "/b"]
        tasks["a"].run()
        tasks["a"].finish(None)
        assert [work["path"] for work in works(view)] == ["/c", "/b"]
        for name in "bc":
            tasks[name].run()
            tasks[name].finish(None)


def test_the_data_of_a_metacopy(stack: Stack) -> None:
    """With several names it is filled in place."""
    stack.layers({"d": {"big": file(bytes(SIZE))}})
    os.link(stack.lowers[0] / "d/big", stack.lowers[0] / "d/other")
    with stack.open(metacopy=True, index=True) as view:
        complete(view.union.setattr, view.ino("d/big"), Changes(mode=stat.S_IFREG | 0o600), view.caller, None)
        assert (stack.upper / "d/big").stat().st_blocks * 512 < SIZE
        task = begin(view, "d/big")
        assert works(view) == copying(0, "waiting")
        task.run()
        [work] = works(view)
        assert (work["step"], work["total"]) == ("writing_out", SIZE)
        task.finish(None)
        assert works(view) == []


def test_a_file_that_lost_its_name(stack: Stack) -> None:
    stack.layers({"d": {"big": file(bytes(SIZE))}})
    with stack.open() as view:
        ino = view.ino("d/big")
        reader = view.open("d/big")
        view.unlink("d/big")
        with pytest.raises(Wait) as wait:
            view.union.setattr(ino, Changes(mode=stat.S_IFREG | 0o600), view.caller, None)
        assert works(view) == copying(0, "waiting", "")
        wait.value.task.run()
        wait.value.task.finish(None)
        view.union.release(reader)


@pytest.mark.parametrize("what", ["listing", "lookup"])
def test_reading_the_names_of_a_huge_directory(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(readdir, "_SLOW_SIZE", 1)
    stack.layers({"d": {"e": {"a": ""}}}, {"d": {"e": {"b": ""}}})
    seen: list[dict[str, Any]] = []
    with stack.open() as view:
        d = view.ino("d")
        real = readdir.scan

        def looked_at(*arguments: Any) -> Any:
            seen.extend(works(view))
            return real(*arguments)

        monkeypatch.setattr(readdir, "scan", looked_at)
        handle = view.union.open_dir(d)
        with pytest.raises(Wait) as wait:
            if what == "listing":
                view.union.list_dir(handle, 0)
            else:
                view.union.lookup(d, b"e")
        listing = {"work": "listing", "path": "/d", "done": None, "total": None}
        assert works(view) == [{**listing, "step": "waiting"}]
        wait.value.task.run()
        assert seen == [{**listing, "step": "reading"}] * 2
        wait.value.task.finish(None)
        assert works(view) == []
        view.union.release_dir(handle)
