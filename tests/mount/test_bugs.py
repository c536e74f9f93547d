"""Bugs of ours, planted: each costs the mount at most, never a hanging mountpoint or a changed directory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.rig import mount, program, run
from tests.support.mounts import REPOSITORY, mount_types, needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]

LOOP_BUG = """
async def serve(self, real=t.Session.serve):
    with trio.move_on_after(0.7):
        await real(self)
    raise ValueError("a bug in the loop")
t.Session.serve = serve
"""

START_BUG = """
def init(self, union, fd, options):
    raise ValueError("a bug at the start")
t.Session.__init__ = init
"""

MUTE = """
async def serve(self):
    await trio.sleep(0.3)
t.Session.serve = serve
"""


def test_a_bug_in_the_loop_unmounts_and_is_logged(base: Path) -> None:
    done = subprocess.run(
        program(LOOP_BUG, base, "-f"), cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "ValueError: a bug in the loop" in done.stderr
    assert mount_types(base / "merged") == []
    mount(base)
    run("umount", base / "merged")


@pytest.mark.parametrize("options", [(), ("-f",)])
@pytest.mark.parametrize("volatile", [False, True])
def test_a_bug_at_the_start_leaves_nothing(base: Path, options: tuple[str, ...], volatile: bool) -> None:
    if volatile:
        options = (*options, "-o", "volatile")
    done = subprocess.run(
        program(START_BUG, base, *options),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "a bug in pyunionfs, ValueError: a bug at the start" in done.stderr
    assert mount_types(base / "merged") == []
    assert os.listdir(base / "work") == []
    assert os.listdir(base / "upper") == []
    place = done.stderr.rpartition(" went to ")[2].strip()
    if place.startswith("/run/pyunionfs/"):
        assert "a bug at the start" in Path(place).read_text()
        os.unlink(place)


def test_a_daemon_that_ends_before_it_answers_is_not_a_success(base: Path) -> None:
    done = subprocess.run(
        program(MUTE, base), cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "before it served" in done.stderr or "cannot mount" in done.stderr
    assert mount_types(base / "merged") == []
