"""The control socket: who may make its directory, what an answer must look like, what the dead leave."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.mounts import needs_root
from unionfs.control import run_directory, status_socket
from unionfs.linux.mount import parse_mount

NAME = "1-ab@0:77.sock"
STATUS: dict[str, Any] = {
    "mountpoint": "/m",
    "device": "0:77",
    "lowers": ["/l"],
    "data_lowers": [],
    "upper": None,
    "work": None,
    "options": [],
    "transport": "direct",
    "flags": ["MAX_PAGES"],
    "passthrough_problem": None,
    "started": "2024-01-01T00:00:00Z",
    "uptime": 1.5,
    "memory": 1,
    "log": "syslog",
    "open_handles": 0,
    "silent_opens": False,
    "in_use": False,
    "requests": {},
    "union": {},
    "upper_space": {"size": 10, "free": 5},
    "under_way": [
        {"work": "copy_up", "path": "/f", "step": "copying", "done": 1, "total": 2, "seconds": 0.5},
        {"work": "listing", "path": "/", "step": "reading", "done": None, "total": None, "seconds": 0},
    ],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory that is looked into."""
    directory = tmp_path / "run" / "pyunionfs"
    directory.parent.mkdir(mode=0o755)
    monkeypatch.setattr(run_directory, "directories", lambda: [str(directory)])
    # For answers that come: a busy machine takes its time.
    monkeypatch.setattr(status_socket, "_TIMEOUT", 30)
    monkeypatch.setattr("glob.glob", lambda _: [])
    return directory


@contextmanager
def answering(
    place: Path, answer: bytes | None, name: str = NAME, answered: threading.Event | None = None
) -> Iterator[list[str]]:
    """A server that gives everybody this answer, and sets *answered*; None: a byte now and then, for 15 s.

    Yields a list of those that were waited for up to their end.
    """
    place.mkdir(mode=0o700, exist_ok=True)
    ended = threading.Event()
    drained: list[str] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / name))
        server.listen(4)

        def drip(client: socket.socket) -> None:
            with suppress(OSError):
                for _ in range(300):  # an end all the same, for who would wait for it
                    client.send(b" ")
                    if ended.wait(0.05):
                        break
                else:
                    drained.append(name)
                client.close()

        def serve() -> None:
            held = []
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    break
                held.append(client)
                if answer is not None:
                    with suppress(BrokenPipeError):
                        client.sendall(answer)
                    client.close()
                    if answered is not None:
                        answered.set()
                else:
                    threading.Thread(target=drip, args=(client,), daemon=True).start()
            for client in held:
                client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield drained
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
    os.unlink(place / name)


def entry(device: str = "0:77", user: int | None = None) -> str:
    return f"36 35 {device} / /m rw - fuse.pyunionfs x rw,user_id={os.geteuid() if user is None else user}"


def test_an_answer_is_found_by_its_device(place: Path) -> None:
    with answering(place, json.dumps(STATUS).encode()):
        me = os.getpid(), os.geteuid()
        assert status_socket.find_daemons(parse_mount(entry())) == [
            status_socket.DaemonInfo(NAME, *me, "0:77", None)
        ]
        assert status_socket.find_daemons(parse_mount(entry("0:78"))) == []
        assert status_socket.query_daemons() == [status_socket.DaemonInfo(NAME, *me, "0:77", STATUS)]


def test_an_older_daemon_is_understood(place: Path) -> None:
    """It goes on until it is unmounted, also when this program was upgraded meanwhile."""
    since: dict[str, Any] = {"under_way": [], "data_lowers": [], "upper_space": None, "silent_opens": False}
    answer = {key: value for key, value in STATUS.items() if key not in since}
    with answering(place, json.dumps(answer).encode()):
        assert [each.status for each in status_socket.query_daemons()] == [{**STATUS, **since}]


@pytest.mark.parametrize(("silent", "open_handles"), [(False, 0), (False, 1), (True, 0)])
def test_an_older_daemon_that_does_not_know_what_is_open_counts_as_in_use(
    place: Path, silent: bool, open_handles: int
) -> None:
    told = {**STATUS, "silent_opens": silent, "open_handles": open_handles}
    answer = {key: value for key, value in told.items() if key != "in_use"}
    with answering(place, json.dumps(answer).encode()):
        in_use = silent or open_handles > 0
        assert [each.status for each in status_socket.query_daemons()] == [{**told, "in_use": in_use}]


@needs_root
def test_nobody_passes_for_the_daemon_of_another_user(place: Path) -> None:
    with answering(place, json.dumps(STATUS).encode()):
        os.chown(place, os.geteuid() + 1, -1)
        assert status_socket.find_daemons(parse_mount(entry(user=os.geteuid() + 1))) == []


@needs_root
def test_only_the_directories_of_the_mounts_user_are_looked_into(place: Path) -> None:
    with answering(place, json.dumps(STATUS).encode()):
        os.chown(place, 12345, -1)
        assert status_socket.find_daemons(parse_mount(entry())) == []
        assert status_socket.query_daemons(0) == []
        assert [each.uid for each in status_socket.query_daemons()] == [0]


def test_one_that_does_not_answer_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(limit: object, client: socket.socket) -> bytes:
        raise AssertionError("a reply is waited for")

    monkeypatch.setattr(status_socket.Limit, "receive", receive)
    with answering(place, None):
        assert [each.pid for each in status_socket.find_daemons(parse_mount(entry()))] == [os.getpid()]


def test_those_that_do_not_answer_cost_their_time_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is over when the one that answers has done so, which is then still received."""
    answered = threading.Event()

    def clock() -> float:
        return status_socket._TIMEOUT + 1.0 if answered.is_set() else 0.0

    monkeypatch.setattr(status_socket, "time", SimpleNamespace(monotonic=clock))
    with ExitStack() as stack:
        stuck = [
            stack.enter_context(answering(place, None, f"1-a{number}@0:{number}.sock")) for number in range(6)
        ]
        good = json.dumps(STATUS).encode()
        stack.enter_context(answering(place, good, "2-b@0:77.sock", answered))
        found = status_socket.query_daemons()
        assert stuck == [[]] * 6
        assert [each.status for each in found] == [None] * 6 + [STATUS]


def test_not_everything_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_socket, "_MAX_BYTES", 1 << 20)
    with answering(place, b" " * (2 << 20) + json.dumps(STATUS).encode()):
        assert [each.status for each in status_socket.query_daemons()] == [None]


def test_a_mount_whose_daemon_is_stuck_has_its_pid(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_socket, "_TIMEOUT", 0.3)
    monkeypatch.setattr(status_socket, "mount_table", lambda: [parse_mount(entry())])
    with answering(place, None):
        [status] = status_socket.list_mounts()
        assert (status["state"], status["pid"]) == ("unreachable", os.getpid())


def test_a_question_that_fails_costs_nothing(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As when there is no descriptor left to look up the memory with."""
    directory = run_directory.make_directory()
    assert directory is not None
    bound = status_socket.ControlSocket(directory, "1-ab")
    bound.set_device((0, 77))
    answers = [OSError(24, "Too many open files"), ValueError("a bug"), STATUS]

    def status() -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer

    def serve() -> None:
        for _ in range(3):
            assert select.select([bound], [], [], 10)[0] == [bound]
            connection = bound.accept()
            assert connection is not None
            bound.send_status(connection, status)

    server = threading.Thread(target=serve)
    server.start()
    try:
        found = [status_socket.query_daemons() for _ in range(3)]
        assert [each.status for [each] in found] == [None, None, STATUS]
    finally:
        server.join()
        bound.close()
    assert "Too many open files" in caplog.text
    assert "a bug" in caplog.text
    assert os.listdir(place) == []


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
        json.dumps({**STATUS, "lowers": [1]}).encode(),
        json.dumps({**STATUS, "requests": {"a": "b"}}).encode(),
        json.dumps({**STATUS, "uptime": float("nan")}).encode(),
        json.dumps({**STATUS, "memory": 10**400}).encode(),
        json.dumps({**STATUS, "started": "long ago"}).encode(),
        json.dumps({key: value for key, value in STATUS.items() if key != "requests"}).encode(),
        json.dumps({**STATUS, "under_way": ["copy_up"]}).encode(),
        json.dumps({**STATUS, "upper_space": {"size": 1}}).encode(),
        json.dumps({**STATUS, "under_way": [{**STATUS["under_way"][0], "done": "much"}]}).encode(),
    ],
    ids=[
        "stuck",
        "empty",
        "text",
        "list",
        "no-keys",
        "deep",
        "wrong-type",
        "element",
        "value",
        "nan",
        "huge",
        "moment",
        "missing-key",
        "work",
        "space",
        "work-value",
    ],
)
def test_an_answer_that_makes_no_sense_is_none(
    place: Path, answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is None:
        monkeypatch.setattr(status_socket, "_TIMEOUT", 0.3)
    with answering(place, answer):
        assert [(each.pid, each.status) for each in status_socket.query_daemons()] == [(os.getpid(), None)]


def test_what_a_dead_daemon_left_is_removed_but_not_a_log_with_lines(place: Path) -> None:
    place.mkdir(mode=0o700)
    for stem in ("1-a", "2-b"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place / f"{stem}@0:77.sock"))
        (place / f"{stem}.log").touch()
    (place / "2-b.log").write_text("trouble")
    assert list(status_socket.query_daemons()) == []
    assert os.listdir(place) == ["2-b.log"]


def test_a_socket_that_does_not_listen_yet_has_no_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real: Callable[..., None] = os.rename

    def rename(*arguments: Any, **keywords: Any) -> None:
        seen.append([name for name in os.listdir(place) if name.endswith(".sock")])
        real(*arguments, **keywords)

    monkeypatch.setattr(os, "rename", rename)
    directory = run_directory.make_directory()
    assert directory is not None
    bound = status_socket.ControlSocket(directory, "1-ab")
    assert seen == [[]]
    assert os.listdir(place) == ["1-ab.sock"]
    bound.set_device((0, 77))
    assert os.listdir(place) == [NAME]
    bound.close()
    assert os.listdir(place) == []


def test_the_directory_is_ours_alone(place: Path) -> None:
    assert run_directory.make_directory() == str(place)
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o755)
    assert run_directory.make_directory() is None


@needs_root
def test_a_directory_of_another_user_or_a_link_is_not_used(place: Path, tmp_path: Path) -> None:
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    assert run_directory.make_directory() is None
    place.rmdir()
    (tmp_path / "mine").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "mine")
    assert run_directory.make_directory() is None


def test_a_long_path_is_no_hindrance(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = place.parent / ("x" * 120)
    monkeypatch.setattr(run_directory, "directories", lambda: [str(deep)])
    directory = run_directory.make_directory()
    assert directory == str(deep)
    bound = status_socket.ControlSocket(directory, "1-ab")
    bound.close()
    assert os.listdir(deep) == []


def test_the_last_logs_of_ended_daemons_are_kept(place: Path) -> None:
    place.mkdir()
    old = time.time() - 2 * 3600
    for number in range(15):
        log = place / f"{number}-ab.log"
        log.write_text("WARNING trouble\n")
        os.utime(log, (old + number, old + number))
    (place / "16-ab.log").write_text("of now")
    os.utime(place / "1-ab.log", (old - 9999, old - 9999))
    for name in ("0-ab.sock", "1-ab@0:77.sock", "2-abc.sock"):
        (place / name).touch()  # 2-ab.log is of another
    status_socket.remove_old_logs(str(place))
    kept = sorted(int(path.name.partition("-")[0]) for path in place.glob("*.log"))
    # Those of daemons that live, the last ten of the ended ones, of which one is of now.
    assert kept == [0, 1, *range(6, 15), 16]
    status_socket.remove_old_logs(str(place))
    assert len(list(place.glob("*.log"))) == 12
