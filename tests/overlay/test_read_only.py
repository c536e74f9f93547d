"""A union without an upper: everything can be read, every change answers EROFS and does nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from tests.overlay.rig import Stack, View, seen
from tests.overlay.trees import WHITEOUT, Tree, disk, file, symlink
from tests.support.mounts import needs_overlayfs, overlayfs

TOP: Tree = {
    "d": {"f": file("data", mode=0o644, xattrs={"user.a": b"1"}), "gone": WHITEOUT},
    "l": symlink("d/f"),
    "e": {},
}
BOTTOM: Tree = {"d": {"gone": "g", "low": "low"}, "g": "g"}

CHANGES: dict[str, Callable[[View], object]] = {
    "open for writing": lambda view: view.open("d/f", os.O_WRONLY),
    "open for both": lambda view: view.open("d/f", os.O_RDWR),
    "open and truncate": lambda view: view.open("d/f", os.O_RDONLY | os.O_TRUNC),
    "create": lambda view: view.create("d/new"),
    "create over a whiteout": lambda view: view.create("d/gone"),
    "mkdir": lambda view: view.mkdir("new"),
    "mknod": lambda view: view.mknod("new", stat.S_IFIFO | 0o600),
    "symlink": lambda view: view.symlink("t", "new"),
    "link": lambda view: view.link("d/f", "new"),
    "unlink": lambda view: view.unlink("d/f"),
    "rmdir": lambda view: view.rmdir("e"),
    "rename": lambda view: view.rename("d/f", "new"),
    "rename of a directory": lambda view: view.rename("d", "new"),
    "exchange": lambda view: view.rename("d", "e", 2),
    "chmod": lambda view: view.chmod("d/f", 0o600),
    "chown": lambda view: view.change("d", uid=1),
    "utimes": lambda view: view.change("l", mtime_ns=1),
    "truncate": lambda view: view.change("d/f", size=0),
    "setxattr": lambda view: view.setxattr("d/f", "user.b", b"1"),
    "removexattr": lambda view: view.removexattr("d/f", "user.a"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_refused(stack: Stack, change: str) -> None:
    stack.layers(TOP, BOTTOM)
    before = [disk(lower) for lower in stack.lowers]
    with stack.open(writable=False) as view:
        tree = view.tree()
        with pytest.raises(OSError) as failure:
            CHANGES[change](view)
        assert failure.value.errno == errno.EROFS
        assert view.tree() == tree
        view.forget_all()
        assert view.union.stats()["inodes"] == 1
        assert view.union.stats()["open_files"] == 0
    assert [disk(lower) for lower in stack.lowers] == before
    assert os.listdir(stack.work) == os.listdir(stack.upper) == []


@needs_overlayfs
def test_everything_is_read(stack: Stack) -> None:
    stack.layers(TOP, BOTTOM)
    with stack.open(writable=False) as view:
        tree = view.tree()
        assert view.getxattr("d/f", "user.a") == b"1"
        assert view.union.statfs().f_blocks == os.statvfs(stack.lowers[0]).f_blocks
        view.union.syncfs()
        handle = view.union.open_dir(view.ino("d"))
        assert view.union.sync_dir(handle.directory.ino) is None
        view.union.release_dir(handle)
    with overlayfs(stack.lowers, None, None, stack.merged) as merged:
        assert seen(merged) == tree


def test_one_lower_is_enough(stack: Stack) -> None:
    stack.layers(BOTTOM)
    with stack.open(writable=False) as view:
        assert sorted(view.tree()) == ["d", "d/gone", "d/low", "g"]
