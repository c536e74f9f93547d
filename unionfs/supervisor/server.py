"""The supervisor itself: accept a connection, fork, and end some time after the last worker.

It runs no loop of any framework and starts no thread, so that what is forked is a process in which nothing
has ever run. It reads no request: that is the worker's, which may fail at it. Workers are processes of their
own, and none ends with the supervisor.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from unionfs.linux import command_line, process, unix_socket
from unionfs.supervisor import caller, likeness, message
from unionfs.supervisor.client import SocketPath

IDLE = 10.0
"""Seconds without a worker after which it ends."""

_PATIENCE = 5.0
"""Seconds in which a request must have arrived."""

_SO_PEERPIDFD = 77

_STALE = 75
"""The exit status of a worker that found other code on disk than what is loaded: no more are forked then."""

Serve = Callable[[socket.socket], int]
"""Does what sys.argv says as the process of a command, and gives its exit status. A mount that serves is
reported before, and the connection closed."""


def start(place: SocketPath, serve: Serve) -> None:
    """Fork the supervisor, which listens when this returns. OSError: it cannot listen there.

    To be called with all loaded that a worker needs, by a process that has no thread.
    """
    listener = _listen(place)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            _main(listener, place, serve)
    finally:
        listener.close()


def _listen(place: SocketPath) -> socket.socket:
    """A socket under the name of *place*, where a dead one may be."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(place.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        unix_socket.listen(listener, directory, f"{place.name}.{os.getpid()}", place.name)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def _main(listener: socket.socket, place: SocketPath, serve: Serve) -> NoReturn:
    """The forked process. Never returns: what it forks for a mount neither."""
    status = 1
    try:
        os.setsid()
        directory = os.open(place.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        process.drop_descriptors({listener.fileno(), directory})
        os.chdir("/")
        process.set_process_name(process.NAME)
        code = _loaded_code()
        # Hardly any of it is garbage, and a collection in a worker would unshare its pages.
        gc.freeze()
        os.environ.clear()
        command_line.replace([b"pyunionfs: supervisor"])
        name = os.stat(place.name, dir_fd=directory, follow_symlinks=False)
        connection = _accept_and_fork(listener)
        if connection is not None:
            status = _work(connection, place, code, serve)
        else:
            _remove(place.name, directory, name)
            status = 0
    finally:
        os._exit(status)


def _accept_and_fork(listener: socket.socket) -> socket.socket | None:
    """In each worker its connection; in the supervisor, when it is to end, None."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    workers: set[int] = set()
    while True:
        events = poll.poll(None if workers else IDLE * 1000)
        if not events:
            return None
        for fd, _ in events:
            if fd != listener.fileno():
                poll.unregister(fd)
                workers.discard(fd)
                ended = os.waitid(os.P_PIDFD, fd, os.WEXITED)
                os.close(fd)
                if ended and ended.si_status == _STALE:
                    return None
                continue
            try:
                connection, _ = listener.accept()
            except OSError:  # the client has gone, or no descriptor is free
                continue
            try:
                pid = os.fork()
            except OSError:  # the client does it without a worker
                connection.close()
                continue
            if pid == 0:
                listener.close()
                for worker in workers:
                    os.close(worker)
                return connection
            connection.close()
            pidfd = os.pidfd_open(pid)
            workers.add(pidfd)
            poll.register(pidfd, select.POLLIN)


def _remove(name: str, directory: int, own: os.stat_result) -> None:
    """Remove the socket, unless another supervisor has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), own):
            os.unlink(name, dir_fd=directory)


def _loaded_code() -> dict[str, tuple[int, ...]]:
    """What the files of this package were when they were loaded."""
    package = __package__.partition(".")[0]
    files = [
        module.__file__
        for name, module in sys.modules.items()
        if name.partition(".")[0] == package and getattr(module, "__file__", None)
    ]
    return {path: _identity(path) for path in files if path}


def _identity(path: str) -> tuple[int, ...]:
    try:
        st = os.stat(path)
    except FileNotFoundError:
        return ()
    return st.st_ino, st.st_size, st.st_mtime_ns


def _work(
    connection: socket.socket, place: SocketPath, code: dict[str, tuple[int, ...]], serve: Serve
) -> int:
    """A worker's whole life; its exit status."""
    os.setsid()
    connection.settimeout(_PATIENCE)
    try:
        pid, uid = unix_socket.peer(connection)
        if uid != os.geteuid():
            return 1
        if not _is_alike(connection, pid):
            connection.sendall(message.DECLINED)
            return 1
        pidfd = os.pidfd_open(os.getpid())
        socket.send_fds(connection, [message.READY_TO_READ], [pidfd])
        os.close(pidfd)
        data, descriptors = message.receive(connection)
        request = message.Request.decode(data)
        if any(_identity(path) != known for path, known in code.items()):
            connection.sendall(message.DECLINED)
            return _STALE
        if request.likeness != place.likeness:  # two of one name: it is a checksum
            connection.sendall(message.DECLINED)
            return 1
        caller.become(request, descriptors)
    except (OSError, ValueError, EOFError):
        return 1  # the client has given up, or is none
    connection.settimeout(None)
    return _serve(connection, serve)


def _is_alike(connection: socket.socket, pid: int) -> bool:
    """Whether the process that has connected, *pid*, may what this one may, by the kernel's word.

    Its own word, the request's likeness, could be made up by a process of the same user with less: root's
    without capabilities, in a sandbox or in other namespaces.
    """
    if pid == 0:
        return False  # of another pid namespace
    try:
        peer = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:  # before Linux 6.5
        peer = os.pidfd_open(pid)
    try:
        alike = likeness.standing(str(pid)) == likeness.standing("self")
        # Has it ended, the number may be another process's by now.
        return alike and not process.wait_for_exit(peer, 0)
    finally:
        os.close(peer)


def _serve(connection: socket.socket, serve: Serve) -> int:
    status = 1
    try:
        status = serve(connection)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    if connection.fileno() >= 0:  # it never served: else the descriptor was closed then
        with contextlib.suppress(OSError):  # the command has gone
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            connection.sendall(message.ENDED + b"%d" % status)
            connection.close()
    return status
