"""Asking a running daemon how it is: one Unix socket a mount, in a directory that only its user can enter.

A client connects, the daemon writes one JSON object and closes. There are no commands, so there is nothing
that a client could break. The socket's name says which mount it belongs to, so that a daemon which is too
busy to answer is found too. Whoever reads the answer must not trust it further than the daemon's user: for
root that is anybody, whose answer may come late, be endless, or be made to do harm.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unionfs.control.status_schema import Status, checked
from unionfs.linux import process
from unionfs.linux.mount import MountPoint, mount_table
from unionfs.transport.mount import FSTYPE

_ANSWER_TIME = 3.0
_MOST_BYTES = 1 << 24
_AT_ONCE = 256
_SUFFIX = ".sock"
_LOG = ".log"
_KEPT_LOGS = 10
_RECENT = 3600.0

logger = logging.getLogger(__name__)


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


def remove_old_logs(directory: str) -> None:
    """Remove the logs of daemons that have ended, but for the last ten and those of the last hour.

    Where there is no syslog, a log is all that tells why a mount has ended, so the last ones stay.
    """
    names = set(os.listdir(directory))
    ended = []
    for name in names:
        stem = name.removesuffix(_LOG)
        # The socket of a daemon that lives: STEM.sock, and STEM@DEVICE.sock when it serves.
        alive = any(other.startswith((stem + _SUFFIX, stem + "@")) for other in names)
        if name.endswith(_LOG) and not alive:
            with contextlib.suppress(FileNotFoundError):  # another daemon that starts does the same
                ended.append((os.stat(f"{directory}/{name}").st_mtime, name))
    for written, name in sorted(ended, reverse=True)[_KEPT_LOGS:]:
        if written < time.time() - _RECENT:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/{name}")


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
            self._socket.listen(128)
            self._socket.setblocking(False)
            os.rename(name, name + _SUFFIX, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        except BaseException:
            os.unlink(name, dir_fd=self._dirfd)
            raise
        return name + _SUFFIX

    def name_mount(self, device: tuple[int, int]) -> None:
        """Say by the socket's name which mount this is."""
        name = f"{self._name.removesuffix(_SUFFIX)}@{device[0]}:{device[1]}{_SUFFIX}"
        try:
            os.rename(self._name, name, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        except OSError as error:
            logger.warning("cannot name the control socket: %s; `status` will not show this mount", error)
            return
        self._name = name

    def fileno(self) -> int:
        """For a selector: readable when somebody asks."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """Let one in who asks; None: he has gone again. OSError where no descriptor is free."""
        try:
            return self._socket.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None

    @staticmethod
    def answer(connection: socket.socket, status: Callable[[], Status]) -> None:
        """Answer and hang up; any thread. A question that fails must not cost the mount."""
        with connection:
            try:
                connection.settimeout(_ANSWER_TIME)
                connection.sendall(json.dumps(status()).encode())
            except (BrokenPipeError, ConnectionError, TimeoutError):
                pass  # whoever asked has gone
            except Exception:
                logger.exception("cannot say how this mount is")

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
    """A daemon that was found. `pid` and `uid` are the kernel's word, the rest is its own.

    `pid` is 0 when it lives in a pid namespace that cannot be seen from here; `device` is None until it is
    mounted; `status` is None when it was not asked or has not answered.
    """

    name: str
    pid: int
    uid: int
    device: str | None
    status: Status | None


def running(user: int | None = None, seconds: float | None = None) -> list[Running]:
    """Ask every daemon that can be reached, or every one of `user`. Sockets of dead ones are removed.

    All those in one directory that do not answer cost so many *seconds* together (3 if not given).
    """
    found: list[Running] = []
    for directory, trusted in _open_directories(user):
        names = iter(_sockets(directory))
        while batch := list(itertools.islice(names, _AT_ONCE)):
            found += _ask(directory, batch, _ANSWER_TIME if seconds is None else seconds)
            if not trusted:
                break  # nobody else may have us ask on and on
    return found


def find(entry: MountPoint) -> list[Running]:
    """The daemons of this mount, which are not asked anything: one that is stuck, or writes out, counts too.

    There can be two: a device number is free again before the daemon that had it is gone.
    """
    found: list[Running] = []
    for directory, _ in _open_directories(owner_of(entry)):
        for name in _sockets(directory):
            if _device_in(name) == _device(entry) and (client := _connect(directory, name)) is not None:
                with client:
                    found.append(_running(client, name, None))
    return [each for each in found if _serves(each, entry)]


def ask(entry: MountPoint) -> list[Running]:
    """What the daemons of this mount answer, each of which may take its time (`_ANSWER_TIME`)."""
    found: list[Running] = []
    for directory, _ in _open_directories(owner_of(entry)):
        names = [name for name in _sockets(directory) if _device_in(name) == _device(entry)]
        found += _ask(directory, names, _ANSWER_TIME)
    return [each for each in found if _serves(each, entry)]


def is_ours(entry: MountPoint, daemons: list[Running]) -> bool:
    """Whether this program mounted it. With another `subtype` only its daemon tells, while it lives."""
    return entry.fstype == FSTYPE or any(_serves(each, entry) for each in daemons)


def owner_of(entry: MountPoint) -> int:
    """The user who mounted it."""
    return int(entry.super_option("user_id") or 0)


def _serves(daemon: Running, entry: MountPoint) -> bool:
    """Whether it says so and may: a user's socket must not pass for the daemon of another's mount."""
    return daemon.device == _device(entry) and daemon.uid == owner_of(entry)


def _device(entry: MountPoint) -> str:
    return f"{entry.device[0]}:{entry.device[1]}"


def _device_in(name: str) -> str | None:
    return name.removesuffix(_SUFFIX).partition("@")[2] or None


def _open_directories(user: int | None) -> Iterator[tuple[int, bool]]:
    """Descriptors of the directories that may hold sockets (of `user`), and whether they are our own."""
    me = os.geteuid()
    places = _directories()
    if me == 0:
        places += glob.glob("/run/user/*/pyunionfs") + glob.glob("/tmp/pyunionfs-*")
    for place in dict.fromkeys(places):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            owner = os.fstat(fd).st_uid
            if owner == user or (user is None and me in (0, owner)):
                yield fd, owner == me
        finally:
            os.close(fd)


def _sockets(directory: int) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIX))


def _connect(directory: int, name: str) -> socket.socket | None:
    """A connection, without waiting; None: nobody is there, or it takes no more questions now."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        client.connect(f"/proc/self/fd/{directory}/{name}")
        return client
    except ConnectionRefusedError:
        _forget(directory, name)
    except OSError:  # not a socket, or its queue is full
        pass
    client.close()
    return None


def _running(client: socket.socket, name: str, status: Status | None) -> Running:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return Running(name, pid, uid, _device_in(name), status)


def _ask(directory: int, names: list[str], seconds: float) -> list[Running]:
    """Ask these all at once: those that do not answer cost so many *seconds* together, and not each."""
    patience = _Patience(seconds)
    with contextlib.ExitStack() as stack:
        clients = [(name, client) for name in names if (client := _connect(directory, name)) is not None]
        for _, client in clients:
            stack.enter_context(client)
        return [_running(client, name, checked(patience.receive(client))) for name, client in clients]


class _Patience:
    """How long some answers may take altogether, and how long they may be."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._bytes = _MOST_BYTES

    def receive(self, client: socket.socket) -> bytes:
        """Everything that is sent; nothing when it is not finished in time."""
        received = bytearray()
        with contextlib.suppress(OSError):  # the time is over, or it ended meanwhile
            while self._bytes > 0:
                # When the time is over what others have answered meanwhile is still taken.
                client.settimeout(max(self._deadline - time.monotonic(), 0))
                part = client.recv(65536)
                if not part:
                    return bytes(received)
                received += part
                self._bytes -= len(part)
        return b""


def _forget(directory: int, name: str) -> None:
    """Remove what a dead daemon left: its socket, and its log when nothing is in it."""
    with contextlib.suppress(OSError):  # another client may have been faster
        os.unlink(name, dir_fd=directory)
        log = name.removesuffix(_SUFFIX).partition("@")[0] + _LOG
        if os.stat(log, dir_fd=directory).st_size == 0:
            os.unlink(log, dir_fd=directory)


def mounts() -> list[Status]:
    """One status for every mount of this program, in the order of the mount table.

    `state` is "serving", "detached" (not in this mount namespace: unmounted while files of it are open, or
    mounted in another one) or "unreachable" (its daemon is dead, stuck, or another user's).
    """
    daemons = running()
    table = [entry for entry in mount_table() if is_ours(entry, daemons)]
    found = [_of_mount(entry, daemons) for entry in table]
    shown = {status["device"] for status in found}
    for daemon in daemons:
        if daemon.status is not None and daemon.device is not None and daemon.device not in shown:
            found.append({**daemon.status, "state": "detached", **_known(daemon)})
    return found


def _known(daemon: Running) -> Status:
    return {"device": daemon.device, "pid": daemon.pid or None, "user": daemon.uid}


def _options_now(words: list[str], entry: MountPoint) -> list[str]:
    read_only = "ro" in entry.options or "ro" in entry.super_options
    return [*(["ro"] if read_only else []), *(word for word in words if word != "ro")]


def _of_mount(entry: MountPoint, daemons: list[Running]) -> Status:
    mine = [daemon for daemon in daemons if _serves(daemon, entry)]
    for daemon in mine:
        if daemon.status is not None:
            # The table's word counts here: the daemon knows of no bind mount, no move and no remount.
            return {
                **daemon.status,
                "state": "serving",
                **_known(daemon),
                "mountpoint": entry.path,
                "options": _options_now(daemon.status["options"], entry),
            }
    return {
        "mountpoint": entry.path,
        "device": _device(entry),
        "state": "unreachable",
        "pid": next((daemon.pid for daemon in mine if daemon.pid), None),
        "user": owner_of(entry),
    }
