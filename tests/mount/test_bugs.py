"""Bugs of ours, planted: each costs the mount at most, never a hanging mountpoint or a changed directory.

A bug in a handler costs one request (invariant 14).
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mount.rig import mount, program, run
from tests.support.mounts import REPOSITORY, mount_types, needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]

LOOP_BUG = """
import threading
def start(self, ended, real=t.Session.start):
    real(self, lambda: None)
    threading.Timer(0.7, ended).start()
def raise_failure(self):
    raise ValueError("a bug in the loop")
t.Session.start, t.Session.raise_failure = start, raise_failure
"""

START_BUG = """
def init(self, union, fd, options):
    raise ValueError("a bug at the start")
t.Session.__init__ = init
"""

MUTE = """
import unionfs.daemon.readiness
unionfs.daemon.readiness.TIMEOUT = 0.3
t.Session.start = lambda self, ended: None
"""

DEAF = MUTE.replace("0.3", "60")


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
    assert "unhandled ValueError: a bug at the start; please report" in done.stderr
    assert mount_types(base / "merged") == []
    assert os.listdir(base / "work") == []
    assert os.listdir(base / "upper") == []
    place = done.stderr.rpartition(" the traceback in ")[2].strip()
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


def test_ctrl_c_while_mounting_leaves_nothing(base: Path) -> None:
    """The daemon starts, but answers nothing: `mount` waits, and is interrupted."""
    # A shell's background job ignores SIGINT, and so would all that the tests start in one.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    waiting = subprocess.Popen(program(heed + DEAF, base), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        while not mount_types(base / "merged"):
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        _, log = waiting.communicate(timeout=20)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == 130, log
    assert "Traceback" not in log
    assert mount_types(base / "merged") == []
