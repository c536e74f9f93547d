"""podman and buildah with pyunionfs as mount program, as root and as an ordinary user.

What comes of it must be right, and the same as under fuse-overlayfs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engines import write_mount_program
from tests.support.mounts import environment, needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.support.users import open_home, ordinary_user, unshared

pytestmark = [needs_root, needs_fuse, one_transport, pytest.mark.usefixtures("engines")]

FUSE_OVERLAYFS = shutil.which("fuse-overlayfs")

DIFF = [
    "A /data/fifo",
    "A /data/new dir",
    "A /data/new dir/file",
    "A /data/renamed",
    "A /data/symlink",
    "C /data",
    "C /data/built",
    "C /data/moved",
    "C /data/one",
    "C /etc",
    "D /data/copied",
    "D /data/kept",
    "D /data/moved/sub",
]

COMPARED = ("listing", "diff", "again", "image")


@pytest.fixture(params=["root", "user"])
def who(request: pytest.FixtureRequest) -> Iterator[int]:
    """Root, or an ordinary user: the id."""
    if request.param == "root":
        yield 0
        return
    with ordinary_user(subordinate_ids=True) as user:
        yield user.pw_uid


def life(uid: int, program: str | None, *options: str) -> dict[str, Any]:
    """What came of the life of an image under this mount program; None: pyunionfs."""
    with open_home(uid) as home:
        if program is None:
            program = str(home / "pyunionfs")
            write_mount_program(Path(program))
        start = [*unshared(), "tests.containers.start", f"{uid}", f"{uid}"]
        done = subprocess.run(
            [*start, "tests.containers.life", str(home), program, *options],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome


def check_life(ours: dict[str, Any]) -> None:
    assert ours["filesystem"] == "fuse.pyunionfs"
    assert "pyunionfs" in ours["version"]
    assert ours["diff"] == DIFF
    assert ours["listing"][0] == "refused"
    assert ours["left"] == {"mounts": [], "processes": [], "layers": []}
    first, second, committed = ours["restarts"]
    assert first.split() == ["refused", "/data/moved:", "leaf", "sub", "/full:", "file", "of"]
    assert second.split() == ["refused", "/data/moved:", "this", "/full:"]
    assert committed.split() == ["/data/moved:", "this", "/full:"]
    by_engine, by_hand = ours["by hand"]
    assert by_engine == by_hand
    assert by_hand["data/renamed"][1:3] == [3, 4]
    top = ours["image"][-1]
    assert top["data/one"][:3] == ["0100600", 7, 8]
    assert all(entry[-1] == {} for layer in ours["image"] for entry in layer.values())


def test_the_life_of_an_image(who: int) -> None:
    ours = life(who, None)
    check_life(ours)
    if FUSE_OVERLAYFS is None:
        pytest.skip("all well, but there is no fuse-overlayfs to compare with")
    theirs = life(who, FUSE_OVERLAYFS)
    assert theirs["filesystem"] == "fuse.fuse-overlayfs"
    assert {name: ours[name] for name in COMPARED} == {name: theirs[name] for name in COMPARED}
