"""The status of running daemons: one Unix socket a mount, in a directory that only its user can enter.

A client connects, the daemon writes one JSON object and closes. There are no commands, so there is nothing
that a client could break. The socket's name has the mount's device number, so that a daemon which is too busy
to reply is found too. A client must not trust a reply further than the daemon's user: for root that is any
user, whose reply may come late, be endless, or be made to do harm.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from unionfs.control import run_directory
from unionfs.control.status_schema import Status, validate
from unionfs.linux import unix_socket
from unionfs.linux.mount import MountPoint, mount_table
from unionfs.transport.mount import FSTYPE

_TIMEOUT = 3.0
_MAX_BYTES = 1 << 24
_BATCH = 256
_SUFFIX = ".sock"
_LOG = ".log"
LAYERS = ".layers"
"""The end of the name of the file that says which directories a daemon's union has."""
_KEPT_LOGS = 10
_RECENT = 3600.0

logger = logging.getLogger(__name__)


def log_path(directory: str, stem: str) -> str:
    """The log file of a daemon that has neither --log-file nor syslog, next to its socket `stem`."""
    return f"{directory}/{stem}{_LOG}"


def remove_old_logs(directory: str) -> None:
    """Remove the logs of daemons that have ended, but for the last ten and those of the last hour.

    Without syslog, only the log says why a mount has ended, so the last ones stay.
    """
    names = set(os.listdir(directory))
    ended = []
    for name in names:
        stem = name.removesuffix(_LOG)
        # The socket of a running daemon: STEM.sock, and STEM@DEVICE.sock when it serves.
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
            self._name = stem + _SUFFIX
            unix_socket.listen(self._socket, self._dirfd, stem, self._name)
        except BaseException:
            self._socket.close()
            os.close(self._dirfd)
            raise

    def set_device(self, device: tuple[int, int]) -> None:
        """Put the mount's device number into the socket's name."""
        name = f"{self._name.removesuffix(_SUFFIX)}@{device[0]}:{device[1]}{_SUFFIX}"
        try:
            os.rename(self._name, name, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        except OSError as error:
            logger.warning("control socket: rename failed: %s; `status` will not show this mount", error)
            return
        self._name = name

    def directory(self) -> int:
        """The descriptor of the directory that it is in."""
        return self._dirfd

    def fileno(self) -> int:
        """For a selector: readable when a client connects."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The connection of a client; None: it has closed it again. OSError where no descriptor is free."""
        try:
            return self._socket.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None

    @staticmethod
    def send_status(connection: socket.socket, status: Callable[[], Status]) -> None:
        """Send the status and close; any thread. A failure must not end the mount."""
        with connection:
            try:
                connection.settimeout(_TIMEOUT)
                connection.sendall(json.dumps(status()).encode())
            except (BrokenPipeError, ConnectionError, TimeoutError):
                pass  # the client has closed its end
            except Exception:
                logger.exception("control socket: failed to build status reply")

    def close(self) -> None:
        self._socket.close()
        for name in (self._name, stem_of_name(self._name) + LAYERS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._dirfd)
        os.close(self._dirfd)
        if os.path.dirname(self._directory) == "/tmp":
            # Not cleaned at boot everywhere; it stays while another daemon's socket or a log is in it.
            with contextlib.suppress(OSError):
                os.rmdir(self._directory)


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """A daemon that was found. `pid` and `uid` come from the kernel, the rest from the daemon.

    `pid` is 0 when it runs in a pid namespace that cannot be seen from here; `device` is None until it is
    mounted; `status` is None when it was not queried or has not replied.
    """

    name: str
    pid: int
    uid: int
    device: str | None
    status: Status | None


def query_daemons(user: int | None = None, seconds: float | None = None) -> list[DaemonInfo]:
    """Query every daemon that can be reached, or every one of `user`. Sockets of dead ones are removed.

    All those of one user that do not reply cost so many *seconds* together (3 if not given).
    """
    found: list[DaemonInfo] = []
    seconds = _TIMEOUT if seconds is None else seconds
    limits: dict[int, Limit] = {}
    for directory, owner in open_directories(user):
        if owner == os.geteuid():
            names = iter(sockets(directory))
            while batch := list(itertools.islice(names, _BATCH)):
                with Limit(seconds) as limit:
                    found += query(directory, batch, limit)
        else:
            # Another user must not keep this command busy for ever, by many sockets or many directories.
            with limits.setdefault(owner, Limit(seconds)) as limit:
                if not limit.is_used_up:
                    found += query(directory, sockets(directory)[:_BATCH], limit)
    return found


def find_daemons(entry: MountPoint) -> list[DaemonInfo]:
    """The daemons of this mount, without a query: one that is stuck, or is writing out, is found too.

    There can be two: a device number is free again before the daemon that had it is gone.
    """
    found: list[DaemonInfo] = []
    for directory, _ in open_directories(owner_of(entry)):
        for name in sockets(directory):
            if device_of_name(name) == device_of(entry) and (client := _connect(directory, name)) is not None:
                with client:
                    found.append(_daemon_info(client, name, None))
    return [each for each in found if _is_daemon_of(each, entry)]


def query_mount(entry: MountPoint) -> list[DaemonInfo]:
    """The daemons of this mount with their status; they have `_TIMEOUT` to reply, all together."""
    found: list[DaemonInfo] = []
    limit = Limit(_TIMEOUT)
    for directory, _ in open_directories(owner_of(entry)):
        names = [name for name in sockets(directory) if device_of_name(name) == device_of(entry)]
        with limit:
            found += query(directory, names, limit)
    return [each for each in found if _is_daemon_of(each, entry)]


def is_pyunionfs(entry: MountPoint, daemons: list[DaemonInfo]) -> bool:
    """Whether this program mounted it. With another `subtype` only a running daemon proves that."""
    return entry.fstype == FSTYPE or any(_is_daemon_of(each, entry) for each in daemons)


def owner_of(entry: MountPoint) -> int:
    """The user who mounted it."""
    return int(entry.super_option("user_id") or 0)


def _is_daemon_of(daemon: DaemonInfo, entry: MountPoint) -> bool:
    """Whether it claims so and is the owner's: another user's socket must not pass for the daemon."""
    return daemon.device == device_of(entry) and daemon.uid == owner_of(entry)


def device_of(entry: MountPoint) -> str:
    """The device number of a mount, as it stands in the name of its daemon's socket."""
    return f"{entry.device[0]}:{entry.device[1]}"


def device_of_name(name: str) -> str | None:
    """The device number of a mount in the name of its daemon's socket; None before it is mounted."""
    return name.removesuffix(_SUFFIX).partition("@")[2] or None


def stem_of_name(name: str) -> str:
    """The beginning that the names of all files of one daemon have in common."""
    return name.removesuffix(_SUFFIX).partition("@")[0]


def open_directories(user: int | None) -> Iterator[tuple[int, int]]:
    """Descriptors of the directories that may hold sockets (of `user`), and who owns them."""
    me = os.geteuid()
    places = run_directory.directories()
    if me == 0:
        import glob  # here, because a daemon looks for no other

        places += glob.glob("/run/user/*/pyunionfs") + glob.glob("/tmp/pyunionfs-*")
    for place in dict.fromkeys(places):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            owner = os.fstat(fd).st_uid
            if owner == user or (user is None and me in (0, owner)):
                yield fd, owner
        finally:
            os.close(fd)


def sockets(directory: int) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIX))


def _connect(directory: int, name: str) -> socket.socket | None:
    """A connection, without waiting; None: no daemon listens, or its queue is full.

    Never by a symlink: another user's could lead to a socket that is root's alone, and its credentials are
    root's then.
    """
    try:
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:  # it is gone
        return None
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if stat.S_ISSOCK(os.fstat(place).st_mode):
            client.connect(f"/proc/self/fd/{place}")
            return client
    except ConnectionRefusedError:
        _remove_dead(directory, name)
    except OSError:  # its queue is full, or there is no descriptor left
        pass
    finally:
        os.close(place)
    client.close()
    return None


def _daemon_info(client: socket.socket, name: str, status: Status | None) -> DaemonInfo:
    pid, uid = unix_socket.peer(client)
    return DaemonInfo(name, pid, uid, device_of_name(name), status)


def query(directory: int, names: list[str], limit: Limit) -> list[DaemonInfo]:
    """Query all of these at once: those that do not reply cost the *limit* together, and not each."""
    with contextlib.ExitStack() as stack:
        clients = [(name, client) for name in names if (client := _connect(directory, name)) is not None]
        for _, client in clients:
            stack.enter_context(client)
        return [_daemon_info(client, name, validate(limit.receive(client))) for name, client in clients]


class Limit:
    """Limits for some replies together: the time that they take within blocks of it, and their size."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._bytes = _MAX_BYTES

    def __enter__(self) -> Self:
        self._until = time.monotonic() + self._seconds
        return self

    def __exit__(self, *exc: object) -> None:
        self._seconds = max(self._until - time.monotonic(), 0)

    @property
    def is_used_up(self) -> bool:
        return self._seconds <= 0 or self._bytes <= 0

    def receive(self, client: socket.socket) -> bytes:
        """Everything that is sent; nothing when it is not complete in time."""
        received = bytearray()
        with contextlib.suppress(OSError):  # the time is over, or it ended meanwhile
            while self._bytes > 0:
                # After the time, what other daemons have sent meanwhile is still received.
                client.settimeout(max(self._until - time.monotonic(), 0))
                part = client.recv(65536)
                if not part:
                    return bytes(received)
                received += part
                self._bytes -= len(part)
        return b""


def _remove_dead(directory: int, name: str) -> None:
    """Remove what a dead daemon left: its socket, and its log when nothing is in it."""
    with contextlib.suppress(OSError):  # another client may have been faster
        os.unlink(name, dir_fd=directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stem_of_name(name) + LAYERS, dir_fd=directory)
        log = stem_of_name(name) + _LOG
        if os.stat(log, dir_fd=directory, follow_symlinks=False).st_size == 0:
            os.unlink(log, dir_fd=directory)


def list_mounts() -> list[Status]:
    """One status for every mount of this program, in the order of the mount table.

    `state` is "serving", "detached" (not in this mount namespace: unmounted while files of it are open, or
    mounted in another one) or "unreachable" (its daemon is dead, stuck, or another user's).
    """
    daemons = query_daemons()
    table = [entry for entry in mount_table() if is_pyunionfs(entry, daemons)]
    found = [_mount_status(entry, daemons) for entry in table]
    shown = {status["device"] for status in found}
    for daemon in daemons:
        if daemon.status is not None and daemon.device is not None and daemon.device not in shown:
            found.append({**daemon.status, "state": "detached", **_identity(daemon)})
    return found


def _identity(daemon: DaemonInfo) -> Status:
    return {"device": daemon.device, "pid": daemon.pid or None, "user": daemon.uid}


def _options_now(words: list[str], entry: MountPoint) -> list[str]:
    read_only = "ro" in entry.options or "ro" in entry.super_options
    return [*(["ro"] if read_only else []), *(word for word in words if word != "ro")]


def _mount_status(entry: MountPoint, daemons: list[DaemonInfo]) -> Status:
    mine = [daemon for daemon in daemons if _is_daemon_of(daemon, entry)]
    for daemon in mine:
        if daemon.status is not None:
            # The mount table decides here: the daemon knows of no bind mount, no move and no remount.
            return {
                **daemon.status,
                "state": "serving",
                **_identity(daemon),
                "mountpoint": entry.path,
                "options": _options_now(daemon.status["options"], entry),
            }
    return {
        "mountpoint": entry.path,
        "device": device_of(entry),
        "state": "unreachable",
        "pid": next((daemon.pid for daemon in mine if daemon.pid), None),
        "user": owner_of(entry),
    }
