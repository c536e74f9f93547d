"""A new hard link is the file that it was made of, at once: one number, one set of locks, one mode."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root, overlayfs, pyunionfs
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]

LOWER = {"with a UUID": (), "without a UUID": ("-U", "clear")}
"""Kernel overlayfs follows no origin into a filesystem of the second kind, and takes the names for two files
until the next mount (docs/semantics.md).
"""


def conflicts(path: Path, other: Path) -> bool:
    """Whether locks by the two names meet."""
    one, two = os.open(path, os.O_RDONLY), os.open(other, os.O_RDONLY)
    try:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(two)
        os.close(one)
    return False


def look(base: Path, lower: Path, way: str) -> dict[str, object]:
    """What two names are like: of a lower file, of one that was copied up before, over a whiteout."""
    upper, work, merged = (base / f"{way} {name}" for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        directory.mkdir()
    options: Sequence[str] = ["index=off", "redirect_dir=off", "metacopy=off"]
    mounted: AbstractContextManager[object]
    if way == "overlayfs":
        mounted = overlayfs([lower], upper, work, merged, options=options)
    else:
        mounted = pyunionfs([lower], upper, work, merged, options=[*WAYS[way], *options])
    found: dict[str, object] = {}
    with mounted:
        (merged / "changed").chmod(0o600)
        (merged / "hidden").unlink()
        for name, link in {"plain": "link1", "changed": "link2", "removed": "hidden"}.items():
            path, other = merged / name, merged / link
            path.stat()
            os.link(path, other)
            path.chmod(0o640)
            one, two = path.stat(), other.stat()
            same = (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
            os.rename(path, other)  # does nothing
            found[name] = (same, conflicts(path, other), oct(two.st_mode), two.st_nlink, path.exists())
    return found


@pytest.mark.parametrize("words", LOWER.values(), ids=LOWER)
@pytest.mark.parametrize("way", WAYS)
def test_a_new_link_is_the_same_file(way: str, words: Sequence[str]) -> None:
    with loop_fs("tmpfs") as base, loop_fs("ext4", words=words) as other:
        lower = other / "lower"
        lower.mkdir()
        for name in ("plain", "changed", "removed", "hidden"):
            (lower / name).write_bytes(name.encode())
            (lower / name).chmod(0o644)
        found = look(base, lower, way)
        assert found == dict.fromkeys(("plain", "changed", "removed"), (True, True, "0o100640", 2, True))
        if not words:
            assert look(base, lower, "overlayfs") == found
