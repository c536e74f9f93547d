"""What a service manager is told by the notifier; tests/mount/test_notify.py sees what a mount tells."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(5)
        yield made


def test_assignments_come_in_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.send("READY=1", "STATUS=two\nlines \udcff")
    assert manager.recv(4096) == b"READY=1\nSTATUS=two lines \xff"
    notifier.send("STOPPING=1")
    assert manager.recv(4096) == b"STOPPING=1"
    notifier.close()
    notifier.send("STOPPING=1")
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_an_abstract_socket() -> None:
    name = f"pyunionfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(f"\0{name}")
        made.settimeout(5)
        Notifier(f"@{name}").send("READY=1")
        assert made.recv(4096) == b"READY=1"


@pytest.mark.parametrize("path", ["", None])
def test_without_a_manager_nothing_happens(path: str | None, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(path)
    notifier.send("READY=1")
    notifier.close()
    assert caplog.records == []


@pytest.mark.parametrize("path", ["/not/there", "relative-and-not-there", "/" + "x" * 200, "@" + "x" * 200])
def test_a_manager_that_cannot_be_reached_is_only_warned_about(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier(path).send("READY=1")
    assert path in caplog.text


def test_a_manager_that_has_gone_is_only_warned_about(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(manager.getsockname())
    manager.close()
    notifier.send("STOPPING=1")
    assert "STOPPING=1" in caplog.text


def test_a_manager_that_takes_nothing_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unionfs.linux.notify._TIMEOUT", 0.05)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        notifier = Notifier(str(path))
        for _ in range(10_000):
            notifier.send("STATUS=again")
            if caplog.records:
                break
        notifier.close()
    assert "notifying the service manager of 'STATUS=again' failed: timed out" in caplog.text
