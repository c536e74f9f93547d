"""What goes between a command and the process that the supervisor has forked for it, over one stream socket.

    worker    READY_TO_READ, with its pidfd
    command   the request, with descriptors: standard input, output and error, the working directory
    worker    READY: it serves, FAILED and a message, ENDED and the exit status (what was wrong stands on
              standard error), or DECLINED: the command mounts by itself

A command that is not answered in time sends no request, so nothing is done twice, and no descriptor of it
waits in a queue that nothing reads.

Must import next to nothing (see `likeness.py`).
"""

from __future__ import annotations

import os
import sys
from _socket import CMSG_SPACE, SCM_RIGHTS, SOL_SOCKET, socket

READY_TO_READ = b"r"
DECLINED = b"d"
ENDED = b"="

DESCRIPTORS = 4
"""That come with a request."""

MOST = 1 << 26
"""Bytes of a request: an environment and a command line of execve(2) have less."""

_INT = 4


class Request:
    """A command line, and what its process would have handed down to a child."""

    __slots__ = ("environment", "likeness", "program", "title", "umask", "words")

    def __init__(
        self,
        likeness: bytes,
        umask: int,
        program: str,
        words: list[str],
        title: list[str],
        environment: dict[bytes, bytes],
    ) -> None:
        self.likeness = likeness
        self.umask = umask
        self.program = program
        """What the command was called as (its argv[0])."""
        self.words = words
        """Its arguments."""
        self.title = title
        """The command line that ps(1) is to show of the worker."""
        self.environment = environment

    def encode(self) -> bytes:
        lists = [len(self.words), len(self.title)]
        fields = [self.likeness, *(b"%d" % number for number in (self.umask, *lists))]
        fields += map(os.fsencode, (self.program, *self.words, *self.title))
        fields += [name + b"=" + value for name, value in self.environment.items()]
        return b"\0".join(fields)

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """ValueError: it is none."""
        likeness, umask, words, title, *fields = data.split(b"\0")
        numbers = int(words), int(title)
        if min(numbers) < 0 or len(fields) < 1 + sum(numbers):
            raise ValueError("a request with fewer words than it says")
        program, *texts = map(os.fsdecode, fields[: 1 + sum(numbers)])
        pairs = [field.partition(b"=") for field in fields[1 + sum(numbers) :]]
        environment = {name: value for name, _, value in pairs}
        return cls(likeness, int(umask), program, texts[: numbers[0]], texts[numbers[0] :], environment)


def send(connection: socket, data: bytes, descriptors: list[int]) -> None:
    """Send one message with its length before it."""
    head = len(data).to_bytes(8, "little")
    rights = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in descriptors)
    connection.sendmsg([head], [(SOL_SOCKET, SCM_RIGHTS, rights)])
    connection.sendall(data)


def receive(connection: socket) -> tuple[bytes, list[int]]:
    """The message of `send`. ValueError: it is none; EOFError: the other side has gone."""
    head, descriptors = receive_part(connection, 8, DESCRIPTORS)
    try:
        head += _exactly(connection, 8 - len(head))
        length = int.from_bytes(head, "little")
        if length > MOST or len(descriptors) != DESCRIPTORS:
            raise ValueError(f"a request of {length} bytes and {len(descriptors)} descriptors")
        return _exactly(connection, length), descriptors
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise


def receive_part(connection: socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Up to *size* bytes, b"" at the end, and the descriptors that came with them."""
    data, ancillary, _, _ = connection.recvmsg(size, CMSG_SPACE(most * _INT))
    descriptors = []
    for level, kind, rights in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            for start in range(0, len(rights) - _INT + 1, _INT):
                fd = int.from_bytes(rights[start : start + _INT], sys.byteorder)
                os.set_inheritable(fd, False)
                descriptors.append(fd)
    return data, descriptors


def _exactly(connection: socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
