"""The impure mark goes with the first listing after the last object that came from below, as in overlayfs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.mount.data_rig import Side, side
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]

IMPURE = "trusted.overlay.impure"


def populate(lower: Path, upper: Path) -> None:
    (lower / "directory").mkdir()
    (lower / "sub").mkdir()
    for name in ("file", "other", "sub/file"):
        (lower / name).write_text(name)
    os.symlink("file", lower / "symlink")


def is_marked(mounted: Side, name: str) -> bool:
    return IMPURE in os.listxattr(mounted.upper / name)


def rmtree(path: Path) -> None:
    for each in path.iterdir():
        each.unlink()
    path.rmdir()


STEPS: list[tuple[str, Callable[[Path], object]]] = [
    ("made", lambda m: (m / "new").mkdir()),
    ("own file", lambda m: (m / "new/own").touch()),
    ("file from below", lambda m: (m / "other").rename(m / "new/other")),
    ("directory from below", lambda m: (m / "sub").rename(m / "new/sub")),
    ("file gone", lambda m: (m / "new/other").unlink()),
    ("directory gone", lambda m: rmtree(m / "new/sub")),
    ("symlink from below", lambda m: (m / "symlink").rename(m / "new/symlink")),
    ("moved away", lambda m: (m / "new/symlink").rename(m / "symlink")),
    ("and back", lambda m: (m / "symlink").rename(m / "new/symlink")),
    ("written", lambda m: (m / "directory/more").write_text("x")),
]


@needs_overlayfs
def test_the_mark_is_there_when_it_is_in_overlayfs() -> None:
    found: dict[str, list[tuple[str, bool, bool, list[str]]]] = {}
    for way in ("overlayfs", "default", "cached", "checked", "pyfuse3"):
        with side(way, populate, ["redirect_dir=on", "index=off"]) as mounted:
            found[way] = []
            for step, action in STEPS:
                action(mounted.merged)
                before = is_marked(mounted, "new")
                names = sorted(os.listdir(mounted.merged / "new"))
                found[way].append((step, before, is_marked(mounted, "new"), names))
            # Numbers are those of what an object came from, with the mark and without it.
            for entry in os.scandir(mounted.merged / "new"):
                assert entry.inode() == entry.stat(follow_symlinks=False).st_ino
    # Layers that may change underneath are not taken at their word.
    del found["checked"]
    assert found == dict.fromkeys(found, found["overlayfs"])
