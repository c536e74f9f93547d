"""The command's side: have the supervisor fork a worker that does what the command line says.

Must import next to nothing (see `likeness.py`), and must not begin anything twice: what the supervisor does
not take up in time is done without it.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket
from binascii import crc32

from unionfs.daemon.answers import FAILED, READY
from unionfs.errors import MountError
from unionfs.linux import unix_socket
from unionfs.supervisor import message
from unionfs.supervisor.likeness import likeness as own_likeness

_PATIENCE = 2.0
"""Seconds in which a worker must be ready to read; after them the mount is served without one."""


class SocketPath:
    """Where the supervisor of processes that are like this one listens."""

    __slots__ = ("directory", "likeness", "name")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.likeness = own_likeness()
        self.name = f"{crc32(self.likeness):08x}.supervisor"

    def connect(self) -> socket | None:
        """A connection to it; None: there is none, or it does not answer."""
        connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        connection.settimeout(_PATIENCE)
        directory = -1
        try:
            directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            connection.connect(unix_socket.path_in(directory, self.name))
            if unix_socket.peer(connection)[1] != os.geteuid():
                # It would be given this process's environment and files.
                raise PermissionError("the socket of another user")
        except OSError:
            connection.close()
            return None
        finally:
            if directory >= 0:
                os.close(directory)
        return connection


def ask(connection: socket, likeness: bytes, program: str, words: list[str]) -> int | None:
    """The exit status of the command line, once its mount serves or was refused; None: nothing was done.

    *connection* is closed then. MountError: it was refused, with the reason.
    """
    try:
        worker = _worker(connection)
        if worker < 0:
            return None
        try:
            request = message.Request(likeness, _umask(), program, words, sys.orig_argv, dict(os.environb))
            if not _send(connection, request):
                return None
            return _wait(connection, worker)
        finally:
            os.close(worker)
    finally:
        connection.close()


def _worker(connection: socket) -> int:
    """The pidfd of the worker that was forked for this connection; negative: none was in time."""
    try:
        answer, descriptors = message.receive_part(connection, 1, 1)
    except OSError:  # TimeoutError is one, too
        return -1
    if answer != message.READY_TO_READ or len(descriptors) != 1:
        return -1
    connection.settimeout(None)
    return descriptors[0]


def _send(connection: socket, request: message.Request) -> bool:
    """False: the worker has ended, and before it had all."""
    cwd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        message.send(connection, request.encode(), [0, 1, 2, cwd])
        return True
    except OSError:
        return False
    finally:
        os.close(cwd)


def _umask() -> int:
    # umask(2) tells it only by changing it; this process has no other thread.
    now = os.umask(0o077)
    os.umask(now)
    return now


def _wait(connection: socket, worker: int) -> int | None:
    try:
        answer = _answer(connection)
    except KeyboardInterrupt:
        from signal import SIGTERM, pidfd_send_signal

        try:
            pidfd_send_signal(worker, SIGTERM)
            _answer(connection)
        except ProcessLookupError:
            pass  # it has ended by itself
        raise
    if answer == READY:
        return 0
    if answer == message.DECLINED:
        return None
    if answer.startswith(message.ENDED):
        return int(answer[1:])
    if answer.startswith(FAILED):
        raise MountError(os.fsdecode(answer[1:]))
    raise MountError("cannot mount: the daemon was killed before it served; try again with -f")


def _answer(connection: socket) -> bytes:
    """All that comes before the end, which is when the worker serves or has ended."""
    answer = b""
    try:
        while part := connection.recv(64):
            answer += part
    except ConnectionResetError:
        pass  # it was killed while something was on the way to it
    return answer
