"""What a mount in the foreground tells the service manager that started it, as sd_notify(3) has it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import run
from tests.support.mounts import command, environment, needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]


@pytest.fixture
def manager(base: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(base / "notify"))
        made.settimeout(20)
        yield made


def start(base: Path, *options: str) -> subprocess.Popen[bytes]:
    words = [str(base / name) for name in ("lower", "upper", "work", "merged")]
    env = {**environment(), "NOTIFY_SOCKET": str(base / "notify")}
    return subprocess.Popen(command("mount", "-f", *options, *words), env=env, stderr=subprocess.PIPE)


@pytest.mark.parametrize("how", ["umount", "SIGTERM"])
def test_ready_when_it_serves_and_stopping_before_it_writes_out(
    base: Path, manager: socket.socket, how: str
) -> None:
    daemon = start(base)
    assert manager.recv(4096) == f"READY=1\nSTATUS=serving {base}/merged".encode()
    assert (base / "merged" / "file").read_text() == "lower\n"
    if how == "umount":
        run("umount", base / "merged")
    else:
        daemon.send_signal(signal.SIGTERM)
    assert manager.recv(4096) == b"STOPPING=1\nSTATUS=writing everything out"
    assert daemon.wait(20) == 0


def test_the_socket_may_be_covered_by_the_mount(base: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(base / "merged" / "notify"))
        manager.settimeout(20)
        (base / "notify").symlink_to("merged/notify")
        daemon = start(base)
        assert manager.recv(4096).startswith(b"READY=1\n")
        run("umount", base / "merged")
        assert manager.recv(4096).startswith(b"STOPPING=1\n")
        assert daemon.wait(20) == 0


def test_what_is_refused_is_not_ready(base: Path, manager: socket.socket) -> None:
    daemon = start(base, "-o", "bogus")
    _, said = daemon.communicate(timeout=20)
    assert (daemon.returncode, b"bogus" in said) == (2, True)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_in_the_background_it_is_somebody_elses_manager(base: Path, manager: socket.socket) -> None:
    words = [base / name for name in ("lower", "upper", "work", "merged")]
    os.environ["NOTIFY_SOCKET"] = str(base / "notify")
    try:
        run("mount", *words)
    finally:
        del os.environ["NOTIFY_SOCKET"]
    run("umount", base / "merged")
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
