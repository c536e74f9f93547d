"""A local user beside the daemon: sockets that are planted, or too many, cost root's commands little."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.control.test_status_socket import NAME, STATUS, answering, entry
from tests.support.mounts import needs_root
from unionfs.control import run_directory, status_socket
from unionfs.linux.mount import parse_mount

EVE, ANN = 712345, 712346
"""Users that need no name."""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that are looked into, in this order; none is there yet."""
    found = [tmp_path / f"run{number}" / "pyunionfs" for number in range(4)]
    for each in found:
        each.parent.mkdir(mode=0o755)
    monkeypatch.setattr(run_directory, "directories", lambda: [str(each) for each in found])
    monkeypatch.setattr(status_socket, "_TIMEOUT", 30)
    monkeypatch.setattr("glob.glob", lambda _: [])
    return found


@needs_root
def test_a_symlink_to_a_socket_of_roots_is_not_followed(places: list[Path]) -> None:
    """The kernel would say that root listens, and a mount of root's would be taken for another one."""
    mine, planted = places[:2]
    planted.mkdir(mode=0o700)
    other = "1-ab@0:99.sock"
    with answering(mine, json.dumps(STATUS).encode()):
        (planted / other).symlink_to(mine / NAME)
        os.chown(planted, EVE, EVE)
        assert [each.name for each in status_socket.query_daemons()] == [NAME]
        assert status_socket.query_mount(parse_mount(entry("0:99", EVE))) == []
        assert [each.device for each in status_socket.find_daemons(parse_mount(entry()))] == ["0:77"]
    assert (planted / other).is_symlink()


MAKE: dict[str, Callable[[Path], None]] = {"file": Path.touch, "fifo": os.mkfifo, "directory": Path.mkdir}


@needs_root
@pytest.mark.parametrize("kind", MAKE)
def test_what_is_no_socket_is_left_alone(places: list[Path], kind: str) -> None:
    places[0].mkdir(mode=0o700)
    thing = places[0] / NAME
    MAKE[kind](thing)
    os.chown(places[0], EVE, EVE)
    assert status_socket.query_daemons() == []
    assert status_socket.query_mount(parse_mount(entry(user=EVE))) == []
    assert thing.exists()


@needs_root
def test_a_user_with_many_directories_takes_the_time_of_one(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands still until one of the first directory has answered; then that user's time is over."""
    answered = threading.Event()

    def clock() -> float:
        return status_socket._TIMEOUT + 1.0 if answered.is_set() else 0.0

    monkeypatch.setattr(status_socket, "time", SimpleNamespace(monotonic=clock))
    good = json.dumps(STATUS).encode()
    with ExitStack() as stack:
        first = stack.enter_context(answering(places[0], None, "1-a@0:1.sock"))
        stack.enter_context(answering(places[0], good, "2-b@0:2.sock", answered))
        second = stack.enter_context(answering(places[1], None, "1-a@0:3.sock"))
        third = stack.enter_context(answering(places[2], None, "1-a@0:4.sock"))
        for place in places[:3]:
            os.chown(place, EVE, EVE)
        # Of another user, whose time begins with its own directory.
        stack.enter_context(answering(places[3], good, "1-a@0:5.sock"))
        os.chown(places[3], ANN, ANN)
        found = status_socket.query_daemons()
        assert first == second == third == []
        assert [(each.device, each.status is not None) for each in found] == [
            ("0:1", False),
            ("0:2", True),
            ("0:5", True),
        ]


@needs_root
def test_of_one_directory_of_another_user_so_many_sockets_are_asked(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_socket, "_BATCH", 2)
    good = json.dumps(STATUS).encode()
    with ExitStack() as stack:
        for number in range(5):
            stack.enter_context(answering(places[0], good, f"1-a{number}@0:{number}.sock"))
        assert len(status_socket.query_daemons()) == 5
        os.chown(places[0], EVE, EVE)
        assert len(status_socket.query_daemons()) == 2


@needs_root
def test_no_directory_is_used_that_another_user_could_replace(places: list[Path]) -> None:
    """As XDG_RUNTIME_DIR is after `sudo -E`: names of logs are planted there by whoever renames ours."""
    os.chown(places[0].parent, EVE, EVE)
    places[1].parent.chmod(0o777)
    assert run_directory.make_directory() == str(places[2])
    assert not places[0].exists()
    assert not places[1].exists()
    places[1].parent.chmod(0o1777)  # as /tmp
    assert run_directory.make_directory() == str(places[1])


def test_a_socket_that_nobody_accepts_from_is_not_waited_for(places: list[Path]) -> None:
    """Its queue is full, as that of a daemon that was stopped: connect(2) would wait."""
    places[0].mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as stack:
        server.bind(str(places[0] / NAME))
        server.listen(0)
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(places[0] / NAME))
            except BlockingIOError:
                break
        assert status_socket.query_daemons() == []
        assert (places[0] / NAME).exists()
