"""The control socket: who may make its directory, what an answer must look like, what the dead leave."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import needs_root
from unionfs import control
from unionfs.linux.mount import parse_mount

STATUS: dict[str, Any] = {
    "mountpoint": "/m",
    "device": "0:77",
    "lowers": ["/l"],
    "upper": None,
    "work": None,
    "options": [],
    "uptime": 1.5,
    "memory": 1,
    "log": "syslog",
    "open_handles": 0,
    "requests": {},
    "union": {},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory that is looked into."""
    directory = tmp_path / "run" / "pyunionfs"
    directory.parent.mkdir()
    monkeypatch.setattr(control, "_directories", lambda: [str(directory)])
    monkeypatch.setattr(control, "_ANSWER_TIME", 0.3)
    monkeypatch.setattr("glob.glob", lambda _: [])
    return directory


@contextmanager
def answering(place: Path, answer: bytes | None, name: str = "1-ab.sock") -> Iterator[None]:
    """A server that gives everybody this answer; None: it never answers."""
    place.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / name))
        server.listen(4)

        def serve() -> None:
            held = []
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    break
                held.append(client)
                if answer is not None:
                    client.sendall(answer)
                    client.close()
            for client in held:
                client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
    os.unlink(place / name)


def entry(device: str = "0:77", user: int | None = None) -> str:
    return f"36 35 {device} / /m rw - fuse.pyunionfs x rw,user_id={os.geteuid() if user is None else user}"


def test_an_answer_is_found_by_its_device(place: Path) -> None:
    with answering(place, json.dumps(STATUS).encode()):
        found = control.find(parse_mount(entry()))
        assert found is not None
        assert (found.pid, found.uid, found.status) == (os.getpid(), os.geteuid(), STATUS)
        assert control.find(parse_mount(entry("0:78"))) is None


def test_nobody_passes_for_the_daemon_of_another_user(place: Path) -> None:
    with answering(place, json.dumps(STATUS).encode()):
        assert control.find(parse_mount(entry(user=os.geteuid() + 1))) is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b"{" * 200000,
        json.dumps({**STATUS, "lowers": "x"}).encode(),
        json.dumps({key: value for key, value in STATUS.items() if key != "requests"}).encode(),
    ],
    ids=["stuck", "empty", "text", "list", "no-keys", "deep", "wrong-type", "missing-key"],
)
def test_an_answer_that_makes_no_sense_is_none(place: Path, answer: bytes | None) -> None:
    with answering(place, answer):
        assert [(each.pid, each.status) for each in control.running()] == [(os.getpid(), None)]


def test_what_a_dead_daemon_left_is_removed_but_not_a_log_with_lines(place: Path) -> None:
    place.mkdir(mode=0o700)
    for stem in ("1-a", "2-b"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place / f"{stem}.sock"))
        (place / f"{stem}.log").touch()
    (place / "2-b.log").write_text("trouble")
    assert list(control.running()) == []
    assert os.listdir(place) == ["2-b.log"]


def test_a_socket_that_does_not_listen_yet_has_no_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real: Callable[..., None] = os.rename

    def rename(*arguments: Any, **keywords: Any) -> None:
        seen.append([name for name in os.listdir(place) if name.endswith(".sock")])
        real(*arguments, **keywords)

    monkeypatch.setattr(os, "rename", rename)
    directory = control.make_directory()
    assert directory is not None
    bound = control.ControlSocket(directory, "1-ab")
    assert seen == [[]]
    assert os.listdir(place) == ["1-ab.sock"]
    bound.close()
    assert os.listdir(place) == []


def test_the_directory_is_ours_alone(place: Path) -> None:
    assert control.make_directory() == str(place)
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o755)
    assert control.make_directory() is None


@needs_root
def test_a_directory_of_another_user_or_a_link_is_not_used(place: Path, tmp_path: Path) -> None:
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    assert control.make_directory() is None
    place.rmdir()
    (tmp_path / "mine").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "mine")
    assert control.make_directory() is None


def test_a_long_path_is_no_hindrance(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = place.parent / ("x" * 120)
    monkeypatch.setattr(control, "_directories", lambda: [str(deep)])
    directory = control.make_directory()
    assert directory == str(deep)
    bound = control.ControlSocket(directory, "1-ab")
    bound.close()
    assert os.listdir(deep) == []
