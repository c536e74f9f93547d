"""Signals for a process that waits for a copy-up: one that kills it does so at once, others wait on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import eventually, gated, gone, statuses
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import chosen

pytestmark = [needs_root, needs_fuse]

SIZE = 1 << 20

GATE = """
import os, time
import unionfs.overlay.copy_up as copy_up
def waits(*arguments, real=copy_up.copy_data, **options):
    open({reached!r}, "x").close()
    while not os.path.exists({gate!r}):
        time.sleep(0.01)
    return real(*arguments, **options)
copy_up.copy_data = waits
"""

ALARMED = """
import os, signal, sys
taken = []
signal.signal(signal.SIGALRM, lambda *_: taken.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
os.truncate(sys.argv[1], 5)
print(len(taken))
"""
"""truncate(2) is not called again by Python when a signal interrupts it."""


@pytest.fixture
def merged(base: Path) -> Iterator[Path]:
    """A mount on which copying data waits for the file `gate`."""
    (base / "lower/big").write_bytes(b"b" * SIZE)
    patch = GATE.format(reached=str(base / "reached"), gate=str(base / "gate"))
    with gated(base, patch) as merged:
        yield merged


def in_background(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_who_is_killed_dies_at_once(base: Path, merged: Path, number: signal.Signals) -> None:
    if chosen() == "pyfuse3":
        pytest.skip("libfuse tells pyfuse3 of no INTERRUPT")
    waiting = in_background("truncate", "-s", "5", merged / "big")
    other = in_background("truncate", "-s", "6", merged / "big")
    assert eventually((base / "reached").exists)
    assert eventually(lambda: statuses(merged)[0]["requests"].get("OPEN", 0) == 2)
    waiting.send_signal(number)
    assert eventually(lambda: gone(waiting.pid)), "killed, but it waits on"
    assert waiting.wait() == -number
    assert other.poll() is None
    assert not (base / "upper/big").exists()
    (base / "gate").touch()
    assert other.wait(30) == 0
    assert (merged / "big").read_bytes() == b"b" * 6
    waiting.communicate()
    other.communicate()


def test_other_signals_do_not_disturb(base: Path, merged: Path) -> None:
    waiting = in_background(sys.executable, "-c", ALARMED, merged / "big")
    assert eventually((base / "reached").exists)
    time.sleep(0.5)  # time for a signal to do harm
    assert waiting.poll() is None
    (base / "gate").touch()
    out, err = waiting.communicate(timeout=30)
    assert err == ""
    assert int(out) >= 1, "no signal came at all"
    assert os.stat(merged / "big").st_size == 5


def test_who_is_killed_after_another_signal(base: Path, merged: Path) -> None:
    """The kernel tells of the first signal only."""
    if chosen() == "pyfuse3":
        pytest.skip("libfuse tells pyfuse3 of no INTERRUPT")
    waiting = in_background(sys.executable, "-c", ALARMED, merged / "big")
    assert eventually((base / "reached").exists)
    time.sleep(0.2)
    waiting.kill()
    assert eventually(lambda: gone(waiting.pid)), "killed, but it waits on"
    waiting.communicate()
