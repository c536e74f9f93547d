"""`whiteouts=aufs`: a crash before each system call that changes something."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.overlay.aufs_layers import LOWER, UPPER, Act
from tests.overlay.rig import Stack, View, remove, steps
from unionfs.linux.syscalls import RENAME_EXCHANGE, renameat2


class Crash(BaseException):
    """The machine is gone: nothing that the process still does reaches the disk."""


@contextmanager
def crash_before(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let *step* calls that change something through, and none after them; yields what was called."""
    done: list[str] = []

    def guard(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            if name == "open" and not (isinstance(args[1], int) and args[1] & os.O_CREAT):
                return call(*args, **kwargs)
            if len(done) >= step:
                raise Crash
            done.append(name)
            return call(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        for name in (
            *("open", "link", "unlink", "rename", "mknod", "mkdir", "rmdir", "symlink", "setxattr"),
            *("removexattr", "chmod", "chown", "utime", "ftruncate", "truncate"),
        ):
            patch.setattr(os, name, guard(name, getattr(os, name)))
        patch.setattr("unionfs.linux.syscalls.renameat2", guard("renameat2", renameat2))
        yield done


def shape(tree: dict[str, str]) -> dict[str, str]:
    """What a tree holds, without times and directories' links, which tell whether it is a merged one."""
    return {name: re.sub(r"x\d+ \d+", "", line) for name, line in tree.items()}


LAST: dict[str, tuple[Act, Act]] = {
    "unlink of a lower file": (lambda v: None, lambda v: v.unlink("g")),
    "unlink of both": (lambda v: None, lambda v: v.unlink("f")),
    "rmdir": (lambda v: remove_in(v, "m"), lambda v: v.rmdir("m")),
    "create": (lambda v: v.unlink("g"), lambda v: v.create("g")),
    "mkdir": (lambda v: remove(v, "dir"), lambda v: v.mkdir("dir")),
    "link": (lambda v: v.unlink("g"), lambda v: v.link("u", "g")),
    "rename": (lambda v: None, lambda v: v.rename("f", "moved")),
    "rename of a lower file": (lambda v: None, lambda v: v.rename("g", "moved")),
    "rename onto a mark": (lambda v: v.unlink("g"), lambda v: v.rename("f", "g")),
    "rename over a lower file": (lambda v: None, lambda v: v.rename("f", "g")),
    "rename of a directory onto a mark": (lambda v: remove(v, "dir"), lambda v: v.rename("own", "dir")),
    "rename of a directory over one of marks": (lambda v: remove_in(v, "m"), lambda v: v.rename("own", "m")),
    "rename of an opaque directory": (
        steps(lambda v: remove(v, "dir"), lambda v: v.mkdir("dir"), lambda v: v.create("dir/b", b"B")),
        lambda v: v.rename("dir", "moved"),
    ),
    "exchange": (lambda v: None, lambda v: v.rename("f", "own", RENAME_EXCHANGE)),
}


def remove_in(view: View, path: str) -> None:
    for name in view.ls(path):
        if stat.S_ISDIR(view.stat(f"{path}/{name}").st_mode):
            remove(view, f"{path}/{name}")
        else:
            view.unlink(f"{path}/{name}")


@pytest.mark.parametrize("case", LAST)
def test_a_crash_leaves_the_old_tree_or_the_new_one(
    base: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, act = LAST[case]
    seen_states = set()
    for step in range(100):
        where = base / str(step)
        where.mkdir()
        stack = Stack(where).layers(LOWER, {"pad": ""}, upper=UPPER)
        with stack.open(whiteouts="aufs") as view:
            prepare(view)
        with stack.open(whiteouts="aufs") as view:
            old = shape(view.tree())
        view = stack.open(whiteouts="aufs")
        complete = True
        with crash_before(step, monkeypatch):
            try:
                act(view)
            except Crash:
                complete = False
        # Only the descriptors are let go of: a crash clears nothing up.
        for inode in list(view.union.fs.table.values()):
            inode.close()
        fs = view.union.fs
        fs.dirfds.close_all()
        assert fs.work is not None
        fs.work._close_fds()
        for layer in fs.layers():
            layer.close()
        with stack.open(whiteouts="aufs") as view:
            found = shape(view.tree())
        if complete:
            new = found
            break
        seen_states.add(repr(found))
    else:
        raise AssertionError("it never ends")
    assert new != old
    assert step > 1, "nothing was changed, or this tests nothing"
    assert seen_states <= {repr(old), repr(new)}
