"""Asking a running daemon how it is: one Unix socket a mount, in a directory that only its user can enter.

A client connects, the daemon writes one JSON object and closes. There are no commands, so there is nothing
that a client could break. Whoever reads the answer must not trust it further than the daemon's user.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any

from unionfs.linux import process
from unionfs.linux.mount import MountPoint, mount_table
from unionfs.transport.mount import FSTYPE

_ANSWER_TIME = 3.0
_MOST_BYTES = 1 << 22
_SUFFIX = ".sock"
_LOG = ".log"

Status = dict[str, Any]

_SHAPE: dict[str, type | UnionType] = {
    "mountpoint": str,
    "device": str,
    "lowers": list,
    "upper": str | None,
    "work": str | None,
    "options": list,
    "uptime": int | float,
    "memory": int,
    "log": str,
    "open_handles": int,
    "requests": dict,
    "union": dict,
}


def _directories() -> list[str]:
    """Where this user's sockets may be, the place to make them first."""
    uid = os.geteuid()
    places = ["/run/pyunionfs"] if uid == 0 else []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):
        places.append(os.path.join(runtime, "pyunionfs"))
    uid = process.outer_uid(uid)
    places += [f"/run/user/{uid}/pyunionfs", f"/tmp/pyunionfs-{uid}"]
    return list(dict.fromkeys(places))


def make_directory() -> str | None:
    """The directory for this user's sockets, made when it is missing; None when there is no safe place."""
    for path in _directories():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            st = os.lstat(path)
        except OSError:
            continue  # not ours to make: the next place
        # In /tmp somebody else could have made it first, or put a link there.
        if stat.S_ISDIR(st.st_mode) and st.st_uid == os.geteuid() and stat.S_IMODE(st.st_mode) == 0o700:
            return path
    return None


def log_beside(directory: str, stem: str) -> str:
    """The log of a daemon that has neither a log file nor syslog, next to its socket `stem`."""
    return f"{directory}/{stem}{_LOG}"


class ControlSocket:
    """The daemon's end. Bound before the mount, which may cover the directory, and removed by descriptor."""

    def __init__(self, directory: str, stem: str) -> None:
        self._directory = directory
        self._dirfd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._name = self._listen(stem)
        except BaseException:
            self._socket.close()
            os.close(self._dirfd)
            raise

    def _listen(self, name: str) -> str:
        # By descriptor, because a socket's path must be shorter than 108 bytes. It gets its name when it
        # listens: a client takes a socket that refuses it for a dead daemon's.
        self._socket.bind(f"/proc/self/fd/{self._dirfd}/{name}")
        try:
            os.chmod(name, 0o600, dir_fd=self._dirfd)
            self._socket.listen(8)
            os.rename(name, name + _SUFFIX, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        except BaseException:
            os.unlink(name, dir_fd=self._dirfd)
            raise
        return name + _SUFFIX

    async def serve(self, status: Callable[[], Status]) -> None:
        """Answer every connection until cancelled."""
        import trio

        self._socket.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))

        async def answer(stream: trio.SocketStream) -> None:
            with trio.move_on_after(_ANSWER_TIME), contextlib.suppress(trio.BrokenResourceError):
                async with stream:
                    await stream.send_all(json.dumps(status()).encode())

        await trio.serve_listeners(answer, [listener])

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._dirfd)
        os.close(self._dirfd)
        if os.path.dirname(self._directory) == "/tmp":
            # Nobody else clears up there; it stays while another daemon's socket or a log is in it.
            with contextlib.suppress(OSError):
                os.rmdir(self._directory)


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon that was found. `pid` and `uid` are the kernel's word; `status`, or None, is its own."""

    pid: int
    uid: int
    status: Status | None


def running() -> Iterator[Running]:
    """Every daemon whose socket this user can reach; root reaches all. Sockets of dead ones are removed."""
    places = _directories()
    if os.geteuid() == 0:
        places += glob.glob("/run/user/*/pyunionfs") + glob.glob("/tmp/pyunionfs-*")
    for place in dict.fromkeys(places):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            for name in sorted(os.listdir(fd)):
                if name.endswith(_SUFFIX) and (found := _ask(fd, name)) is not None:
                    yield found
        finally:
            os.close(fd)


def find(entry: MountPoint) -> Running | None:
    """The daemon that serves this mount."""
    return next((each for each in running() if _serves(each, entry)), None)


def _serves(daemon: Running, entry: MountPoint) -> bool:
    """Whether it says so and may: a user's socket must not pass for the daemon of another's mount."""
    return (
        daemon.status is not None
        and daemon.status["device"] == _device(entry)
        and entry.super_option("user_id") == str(daemon.uid)
    )


def _device(entry: MountPoint) -> str:
    return f"{entry.device[0]}:{entry.device[1]}"


def _ask(directory: int, name: str) -> Running | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_ANSWER_TIME)
        try:
            client.connect(f"/proc/self/fd/{directory}/{name}")
        except ConnectionRefusedError:
            _forget(directory, name)
            return None
        except OSError:
            return None
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        return Running(pid, uid, _receive(client))


def _forget(directory: int, name: str) -> None:
    """Remove what a dead daemon left: its socket, and its log when nothing is in it."""
    with contextlib.suppress(OSError):  # another client may have been faster
        os.unlink(name, dir_fd=directory)
        log = name.removesuffix(_SUFFIX) + _LOG
        if os.stat(log, dir_fd=directory).st_size == 0:
            os.unlink(log, dir_fd=directory)


def _receive(client: socket.socket) -> Status | None:
    received = bytearray()
    try:
        while len(received) <= _MOST_BYTES:
            part = client.recv(65536)
            if not part:
                return _checked(json.loads(received))
            received += part
    except (OSError, ValueError, RecursionError):  # it is stuck, ended meanwhile, or is no daemon of ours
        pass
    return None


def _checked(answer: object) -> Status | None:
    """The answer if it has the shape of a status: it may come from another user's program."""
    if not isinstance(answer, dict):
        return None
    return answer if all(isinstance(answer.get(key), kind) for key, kind in _SHAPE.items()) else None


def mounts() -> list[Status]:
    """One status for every mount of this program, in the order of the mount table.

    `state` is "serving", "detached" (out of the tree, but files of it are still open) or "unreachable" (its
    daemon is dead, stuck, or another user's).
    """
    daemons = list(running())
    table = [entry for entry in mount_table() if entry.fstype == FSTYPE]
    found = [_of_mount(entry, daemons) for entry in table]
    shown = {status["device"] for status in found}
    for daemon in daemons:
        if daemon.status is not None and daemon.status["device"] not in shown:
            found.append({**daemon.status, "state": "detached", "pid": daemon.pid})
    return found


def _of_mount(entry: MountPoint, daemons: list[Running]) -> Status:
    for daemon in daemons:
        if daemon.status is not None and _serves(daemon, entry):
            # The table's path is the true one here: a bind mount or a move is not known to the daemon.
            return {**daemon.status, "state": "serving", "pid": daemon.pid, "mountpoint": entry.path}
    return {
        "mountpoint": entry.path,
        "device": _device(entry),
        "state": "unreachable",
        "pid": None,
        "user": int(entry.super_option("user_id") or 0),
    }
