"""Changes that fuse-overlayfs itself has written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from testing.oracle.sides import FuseOverlayfs, Union
from tests.overlay.rig import Stack
from tests.overlay.trees import Tree
from tests.support.mounts import needs_fuse
from tests.support.transports import one_transport
from unionfs.offline.change import Change
from unionfs.offline.changes import changes

pytestmark = [
    needs_fuse,
    one_transport,
    pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="needs fuse-overlayfs"),
]


def _change(merged: Path) -> None:
    (merged / "etc/new").write_text("new")
    with (merged / "etc/passwd").open("a") as file:
        file.write("one more\n")
    (merged / "etc/x").rename(merged / "etc/x2")
    (merged / "etc/sub").chmod(0o700)
    with (merged / "etc/same").open("r+"):
        pass
    (merged / "top/in").mkdir(parents=True)
    shutil.rmtree(merged / "gone")
    shutil.rmtree(merged / "again")
    (merged / "again").mkdir()
    (merged / "again/k").write_text("k")
    os.symlink("etc", merged / "link")


def _lines(stack: Stack, *, alone: bool) -> list[str]:
    found = list(changes(str(stack.upper), None if alone else list(map(str, stack.lowers))))
    assert all(isinstance(each, Change) for each in found), found
    return sorted(f"{each.kind} {os.fsdecode(each.path)}" for each in found if isinstance(each, Change))


def test_an_upper_of_fuse_overlayfs(stack: Stack) -> None:
    files: Tree = {"passwd": "root\n", "x": "x", "same": "s", "sub": {"f": "f"}}
    stack.layers({"etc": files, "gone": {"h": "h"}, "again": {"z": "z"}})
    with FuseOverlayfs().mount(Union(tuple(stack.lowers), stack.upper, stack.work, stack.merged), []):
        _change(stack.merged)
    same = ["A /again/k", "A /etc/new", "A /etc/x2", "A /link", "A /top", "A /top/in"]
    same += ["C /etc", "C /etc/passwd", "C /etc/sub", "D /etc/x", "D /gone"]
    assert _lines(stack, alone=False) == sorted([*same, "C /again", "D /again/z"])
    assert _lines(stack, alone=True) == sorted([*same, "A /again", "C /etc/same"])
