"""What an ordinary user does with the API: `python -m tests.api.user_api DIRECTORY`.

Run as that user (tests/programs/as_user.py) or as the root of a user namespace, with an empty directory of
his own. It asserts every result.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal, cast

import pytest

import unionfs
from tests.api.rig import mounted_at
from tests.mount.rig import eventually
from tests.support.mounts import mount_types
from tests.support.transports import chosen

KILLED = """
import os, signal, sys, unionfs
union = unionfs.mount([sys.argv[1]], tmpdir=sys.argv[2])
(union.path / "file").write_text("changed")
print(union.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def scribble(tree: Path, place: Path) -> None:
    """Everything that makes a tree hard to remove for its owner."""
    over = cast(Literal["auto", "direct", "pyfuse3"], chosen())
    with unionfs.mount([tree], tmpdir=place, transport=over) as merged:
        assert merged.stat().st_uid == os.getuid()
        assert sorted(os.listdir(merged)) == ["directory", "file"]
        assert mounted_at(merged).user == os.getuid()
        (merged / "file").unlink()
        (merged / "directory").rename(merged / "renamed")
        assert os.listdir(merged / "renamed") == ["inside"]
        (merged / "closed/inner").mkdir(parents=True)
        (merged / "closed/inner").chmod(0)
        (merged / "closed").chmod(0)
    assert os.listdir(place) == []
    assert (tree / "file").read_text() == "prepared\n"


def stay_busy(tree: Path, place: Path) -> None:
    """A file that stays open is told of, and nothing stays."""
    union = unionfs.mount([tree], tmpdir=place)
    with (union.path / "file").open() as file:
        with pytest.raises(unionfs.MountError, match=r"/file open \(descriptor"), union:
            pass
        assert mount_types(union.path) == []
        assert file.read() == "prepared\n"


def closed_tree(tree: Path, place: Path) -> None:
    """The view of a tree that its owner has closed to writing can be written at the top."""
    tree.chmod(0o555)
    with unionfs.mount([tree], tmpdir=place) as merged:
        (merged / "new").touch()
        assert merged.stat().st_mode & 0o777 == (0o755 if os.getuid() else 0o555)
    tree.chmod(0o755)


def be_killed(tree: Path, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tree, place], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    merged = Path(done.stdout.strip())
    assert eventually(lambda: mount_types(merged) == [])
    assert eventually(lambda: not merged.parent.exists())


def refusals(tree: Path, place: Path) -> None:
    with pytest.raises(unionfs.OptionError, match="mount option dev is permitted for root only"):
        unionfs.mount([tree], tmpdir=place, dev=True)
    assert os.listdir(place) == []


def main(directory: Path) -> None:
    """All of it."""
    tree, place = directory / "tree", directory / "place"
    for path in (tree, place):
        path.mkdir()
    (tree / "file").write_text("prepared\n")
    (tree / "directory").mkdir()
    (tree / "directory/inside").touch()
    scribble(tree, place)
    stay_busy(tree, place)
    closed_tree(tree, place)
    be_killed(tree, place)
    if os.getuid() != 0:
        refusals(tree, place)
    assert os.listdir(place) == []
    print("all done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
