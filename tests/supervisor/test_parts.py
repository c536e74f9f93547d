"""What two processes must have in common, the messages between them, and the line that ps(1) shows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import needs_root
from unionfs.linux import command_line
from unionfs.supervisor import message
from unionfs.supervisor.likeness import likeness


def in_child(work: Callable[[], bytes]) -> bytes:
    """What *work* gives in a forked process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with open(writer, "wb") as pipe:
                pipe.write(work())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        found = pipe.read()
    os.waitpid(pid, 0)
    return found


def test_a_fork_is_alike() -> None:
    assert in_child(likeness) == likeness()


def changed(change: Callable[[], object]) -> bool:
    def work() -> bytes:
        change()
        return likeness()

    return in_child(work) != likeness()


DIFFERENCES: dict[str, Callable[[], object]] = {
    "nice": lambda: os.nice(1),
    "mount namespace": lambda: _unshare(0x20000),
    "uts": lambda: _unshare(0x4000000),
    "gid": lambda: os.setgid(12345),
    "groups": lambda: os.setgroups([12345]),
    "uid": lambda: os.setuid(12345),
    "limit": lambda: __import__("resource").setrlimit(4, (0, 0)),
    "processors": lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]),
    "oom": lambda: Path("/proc/self/oom_score_adj").write_text("17"),
    "no_new_privs": lambda: _prctl(38, 1),
    "root": lambda: os.chroot("/usr"),
    "locale": lambda: os.environ.update(LC_TIME="other"),
    "interpreter": lambda: os.environ.update(PYTHONUTF8="1"),
}


def _unshare(flags: int) -> None:
    import ctypes

    assert ctypes.CDLL(None).unshare(flags) == 0


def _prctl(option: int, value: int) -> None:
    import ctypes

    assert ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


@needs_root
@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_differs_is_seen(name: str) -> None:
    assert changed(DIFFERENCES[name])


def test_what_a_worker_can_put_on_makes_no_difference() -> None:
    def other() -> None:
        os.umask(0o177)
        os.chdir("/")
        os.environ["HOME"] = "/elsewhere"

    assert not changed(other)


def test_a_request_arrives_as_it_was_sent(tmp_path: Path) -> None:
    environment = {b"A": b"1=2", b"EMPTY": b"", b"\xff": b"\xfe\n"}
    sent = message.Request(b"alike", 0o27, "/bin/x", ["mount", "", "a\udcffb"], ["python", "x"], environment)
    one, other = socket.socketpair()
    with one, other:
        files = [os.open(tmp_path, os.O_PATH) for _ in range(4)]
        message.send(one, sent.encode(), files)
        data, descriptors = message.receive(other)
        got = message.Request.decode(data)
        assert all(getattr(got, name) == getattr(sent, name) for name in message.Request.__slots__)
        assert [os.fstat(fd).st_ino for fd in descriptors] == [tmp_path.stat().st_ino] * 4
        for fd in files + descriptors:
            os.close(fd)


@pytest.mark.parametrize(
    "data", [b"", b"a", b"\0\0\0\0", b"a\x001\x00-1\x001\0x", b"a\x001\x009\x009\0x\0y", b"a\0b\0c\0d\0e"]
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        message.Request.decode(data)


def test_a_message_without_its_descriptors_is_refused_and_none_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    one, other = socket.socketpair()
    with one, other:
        fd = os.open(tmp_path, os.O_PATH)
        message.send(one, b"data", [fd])
        os.close(fd)
        with pytest.raises(ValueError):
            message.receive(other)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("words", [["short"], ["as", "many"] * 3, ["longer than the first one " * 10, "end"]])
def test_the_command_line_is_replaced(words: list[str]) -> None:
    program = (
        "import os, sys; from unionfs.linux import command_line; words = sys.argv[1:]; os.environ.clear();"
        " command_line.replace([os.fsencode(word) for word in eval(os.read(0, 65536))]);"
        " sys.stdout.buffer.write(open('/proc/self/cmdline', 'rb').read())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program, "a", "b"], input=repr(words).encode(), capture_output=True, check=True
    ).stdout
    apart, joined = b"\0".join(os.fsencode(word) for word in words), os.fsencode(" ".join(words))
    assert shown.rstrip(b"\0") in (apart, joined)


def test_a_command_line_that_is_too_long_is_cut() -> None:
    def work() -> bytes:
        command_line.replace([b"x" * (1 << 20)])
        return Path("/proc/self/cmdline").read_bytes()

    shown = in_child(work).rstrip(b"\0")
    assert shown
    assert set(shown) == {ord("x")}
