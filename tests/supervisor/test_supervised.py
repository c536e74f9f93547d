"""Mounts whose daemons the supervisor forks: as the command's own daemons, and independent of each other."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.rig import eventually, gone, run
from tests.support.mounts import REPOSITORY, command, environment, needs_fuse, needs_root, status_pid
from tests.support.transports import one_transport
from unionfs.supervisor import message

pytestmark = [needs_root, needs_fuse, one_transport]

LAYERS = ("lower", "upper", "work", "merged")


class Place:
    """Directories of unions, and an environment whose mounts have a supervisor of their own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        # One of those that an interpreter reads at its start.
        self.environment = {**environment(), "LC_PYUNIONFS_TEST": str(base), "XDG_RUNTIME_DIR": str(base)}
        self.count = 0

    def union(self) -> Path:
        self.count += 1
        union = self.base / f"union{self.count}"
        for name in LAYERS:
            (union / name).mkdir(parents=True)
        (union / "lower/file").write_text("lower")
        return union

    def mount(self, union: Path, *options: str, **more: Any) -> None:
        self.run("mount", *options, *(str(union / name) for name in LAYERS), **more)

    def run(self, *words: str, **more: Any) -> None:
        done = subprocess.run(
            command(*words), capture_output=True, text=True, timeout=60, env=self.environment, **more
        )
        assert done.returncode == 0, done

    def end(self) -> None:
        for number in range(1, self.count + 1):
            merged = self.base / f"union{number}/merged"
            if os.path.ismount(merged):
                run("umount", merged)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.end()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_supervisor(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"pyunionfs: supervisor")


def test_the_first_mount_starts_it_and_the_next_has_its_daemon_from_it(place: Place) -> None:
    first, second = place.union(), place.union()
    place.mount(first)
    place.mount(second)
    pids = [status_pid(union / "merged") for union in (first, second)]
    assert parent(pids[0]) == parent(pids[1])
    assert is_supervisor(parent(pids[0]))
    for union in (first, second):
        (union / "merged/file").write_text("changed")
        assert (union / "upper/file").read_text() == "changed"


def test_without_it_the_daemon_is_the_commands_own(place: Place) -> None:
    union = place.union()
    place.mount(union, "-o", "supervise=off")
    assert not is_supervisor(parent(status_pid(union / "merged")))
    other = place.union()
    place.mount(other)
    third = place.union()
    place.mount(third, "-o", "supervise=off")
    assert not is_supervisor(parent(status_pid(third / "merged")))


def test_its_death_harms_no_mount_and_the_next_one_starts_another(place: Place) -> None:
    union = place.union()
    place.mount(union)
    supervisor = parent(status_pid(union / "merged"))
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: gone(supervisor))
    assert (union / "merged/file").read_text() == "lower"
    other = place.union()
    place.mount(other)
    new = parent(status_pid(other / "merged"))
    assert new != supervisor
    assert is_supervisor(new)


def test_the_death_of_one_daemon_harms_no_other_mount(place: Place) -> None:
    unions = [place.union(), place.union()]
    for union in unions:
        place.mount(union)
    victim = status_pid(unions[0] / "merged")
    os.kill(victim, signal.SIGKILL)
    assert eventually(lambda: gone(victim))
    assert (unions[1] / "merged/file").read_text() == "lower"
    third = place.union()
    place.mount(third)
    assert parent(status_pid(third / "merged")) == parent(status_pid(unions[1] / "merged"))


def test_a_daemon_has_what_its_command_had(place: Place) -> None:
    first, second = place.union(), place.union()
    place.mount(first)
    place.environment["EXTRA"] = "of this command"
    words = ["mount", "--log-file", "log", *LAYERS]
    place.run(*words, cwd=second, umask=0o027)
    pid = status_pid(second / "merged")
    assert is_supervisor(parent(pid))
    assert (second / "log").stat().st_mode & 0o777 == 0o640
    shown = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").replace("\0", " ")
    assert shown.endswith(" ".join(words[1:]))
    assert Path(f"/proc/{pid}/comm").read_text() == "pyunionfs\n"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}


def test_other_limits_have_another_supervisor(place: Place) -> None:
    first, second = place.union(), place.union()
    place.mount(first)
    place.mount(second, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)))
    pids = [status_pid(union / "merged") for union in (first, second)]
    assert parent(pids[0]) != parent(pids[1])
    assert "512 " in next(
        line for line in Path(f"/proc/{pids[1]}/limits").read_text().splitlines() if "open files" in line
    ).replace("512  ", "512 ")


WRONG = {
    "option": ["mount", "-o", "nonsense", *LAYERS],
    "word": ["mount", "--nonsense", *LAYERS],
    "layer": ["mount", "missing", "upper", "work", "merged"],
    "nothing": ["mount"],
    "mountpoint": ["mount", "lower", "upper", "work", "missing"],
    "work": ["mount", "lower", "upper", "upper", "merged"],
    "log": ["mount", "--log-file", "/missing/log", *LAYERS],
    "image": ["mount", "--store", "store", "--image", "missing", "merged"],
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_is_refused_in_the_same_words(name: str, place: Place) -> None:
    running, union = place.union(), place.union()
    place.mount(running)

    def refused(*options: str) -> tuple[int, str]:
        words = [WRONG[name][0], *options, *WRONG[name][1:]]
        done = subprocess.run(
            command(*words), cwd=union, env=place.environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr

    by_supervisor = refused()
    assert by_supervisor == refused("-o", "supervise=off")
    assert by_supervisor[0] in (1, 2)
    assert by_supervisor[1].startswith("pyunionfs: ")


def test_one_that_does_not_answer_is_done_without(place: Place) -> None:
    first, second = place.union(), place.union()
    place.mount(first)
    supervisor = parent(status_pid(first / "merged"))
    os.kill(supervisor, signal.SIGSTOP)
    try:
        place.mount(second)
        assert parent(status_pid(second / "merged")) != supervisor
    finally:
        os.kill(supervisor, signal.SIGCONT)
    third = place.union()
    place.mount(third)


def socket_of(place: Place) -> str:
    """The supervisor's socket."""
    pid = parent(status_pid(place.base / "union1/merged"))
    inodes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    for line in Path("/proc/net/unix").read_text().splitlines():
        fields = line.split()
        if len(fields) == 8 and f"socket:[{fields[6]}]" in inodes:
            # It was renamed when it listened.
            return os.path.join("/run/pyunionfs", Path(fields[7]).name.rpartition(".")[0])
    raise AssertionError(inodes)


def test_what_is_no_request_does_it_no_harm(place: Place) -> None:
    union = place.union()
    place.mount(union)
    supervisor = parent(status_pid(union / "merged"))
    path = socket_of(place)
    held = []
    for garbage in (b"", b"x", b"\xff" * 8, b"\0" * 100000, (100).to_bytes(8, "little") + b"a\0" * 50):
        for _ in range(5):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            connection.sendall(garbage)
            held.append(connection)
        held.pop().close()
    files = [os.open("/", os.O_PATH)] * 4
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    socket.send_fds(connection, [(1 << 40).to_bytes(8, "little")], files)
    assert connection.recv(1) == message.READY_TO_READ
    assert connection.recv(1) == b""
    other = place.union()
    place.mount(other)
    assert parent(status_pid(other / "merged")) == supervisor
    for each in (*held, connection):
        each.close()
    os.close(files[0])


def test_it_holds_nothing_of_the_command_that_started_it(place: Place) -> None:
    union = place.union()
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    place.mount(union, pass_fds=[writer])
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    supervisor = parent(status_pid(union / "merged"))
    files = {os.readlink(f"/proc/{supervisor}/fd/{fd}") for fd in os.listdir(f"/proc/{supervisor}/fd")}
    assert {name for name in files if name.startswith("/")} <= {"/dev/null", "/run/pyunionfs"}
    assert os.readlink(f"/proc/{supervisor}/cwd") == "/"


def test_a_command_that_is_interrupted_leaves_no_mount(place: Place) -> None:
    holder, waiting = place.union(), place.union()
    place.mount(holder)
    # The lock of a daemon that has been detached and still has an open file: the next mount waits for it.
    place.mount(waiting)
    with open(waiting / "merged/file", "a") as file:
        file.write("x")
        file.flush()
        subprocess.run(["umount", "--lazy", waiting / "merged"], check=True)
        words = command("mount", *(str(waiting / name) for name in LAYERS))
        blocked = subprocess.Popen(words, env=place.environment, stderr=subprocess.PIPE, text=True)
        assert blocked.stderr is not None
        assert "waiting for" in blocked.stderr.readline()
        blocked.send_signal(signal.SIGINT)
        assert blocked.wait(30) == 130
    time.sleep(0.1)
    assert not os.path.ismount(waiting / "merged")


def test_it_ends_some_time_after_the_last_mount(place: Place) -> None:
    union = place.union()
    place.mount(union)
    pid = parent(status_pid(union / "merged"))
    path = socket_of(place)
    run("umount", union / "merged")
    deadline = time.monotonic() + 60
    while not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not os.path.lexists(path)


def test_other_code_on_disk_has_another_supervisor(place: Place, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "unionfs", tmp_path / "code/unionfs")
    place.environment["PYTHONPATH"] = str(tmp_path / "code")
    unions = [place.union() for _ in range(4)]
    words = [sys.executable, "-P", "-m", "unionfs", "mount"]
    parents = []
    for number, union in enumerate(unions):
        if number == 2:
            os.utime(tmp_path / "code/unionfs/overlay/super.py", (1, 1))
        subprocess.run(
            [*words, *(str(union / name) for name in LAYERS)],
            env=place.environment,
            cwd=tmp_path,
            check=True,
            timeout=60,
        )
        parents.append(parent(status_pid(union / "merged")))
    assert parents[0] == parents[1]
    assert parents[2] != parents[0], "by code that is not on disk any more"
    assert parents[3] != parents[0]
    assert is_supervisor(parents[3])
    assert eventually(lambda: gone(parents[0]))
    assert (unions[0] / "merged/file").read_text() == "lower"
