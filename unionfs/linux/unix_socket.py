"""Unix sockets in a directory that is open, and who is at the other end of one.

By the directory's descriptor: a path must be shorter than 108 bytes, and a mount may cover it. Must import
next to nothing: each `pyunionfs mount` connects to the supervisor before it does anything else.
"""

from __future__ import annotations

import os
import sys
from _socket import SO_PEERCRED, SOL_SOCKET, socket

_INT = 4


def path_in(directory: int, name: str) -> str:
    """The path of *name* for bind(2) and connect(2)."""
    return f"/proc/self/fd/{directory}/{name}"


def listen(listener: socket, directory: int, first_name: str, name: str) -> None:
    """Have it listen as *name*, for its user alone and without waiting in accept(2). Raises OSError.

    It has *first_name* until it listens: a client takes a socket that refuses connections for a dead one's.
    What had the name before is replaced.
    """
    listener.bind(path_in(directory, first_name))
    try:
        os.chmod(first_name, 0o600, dir_fd=directory)
        listener.listen(128)
        listener.setblocking(False)
        os.rename(first_name, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(first_name, dir_fd=directory)
        raise


def peer(connection: socket) -> tuple[int, int]:
    """Process and user at the other end when it was connected, or began to listen.

    The process is 0 where it is in a pid namespace that cannot be seen from here: unix(7), SO_PEERCRED.
    """
    credentials = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 3 * _INT)
    pid, uid = credentials[:_INT], credentials[_INT : 2 * _INT]
    return int.from_bytes(pid, sys.byteorder), int.from_bytes(uid, sys.byteorder)
