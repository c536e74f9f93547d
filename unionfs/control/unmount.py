"""Unmounts, and waits until the daemon has written everything out and has exited.

Works for mounts whose daemon has died too. Never unmounts what is not this program's, and never kills a
daemon.
"""

from __future__ import annotations

import errno
import math
import os
import shlex
import sys
import time
from collections.abc import Callable

from unionfs.control import status_socket
from unionfs.errors import MountError, explain
from unionfs.linux import process
from unionfs.linux.mount import MountPoint, mount_at, mount_table
from unionfs.options.mount_options import resolve_mountpoint
from unionfs.transport.detach import unmount

_BUSY_RETRIES = 5
_BUSY_PAUSE = 0.1
_SOCKET_PAUSE = 0.05
_BIND_TIMEOUT = 1.0
_EXIT_TIMEOUT = 5.0
_FORCE_TIMEOUT = 2.0
_STATVFS_TIMEOUT = 1.0


def _to_stderr(text: str) -> None:
    print(f"pyunionfs: {text}", file=sys.stderr)


def umount(
    path: str, *, lazy: bool = False, force: bool = False, report: Callable[[str], None] = _to_stderr
) -> None:
    """Unmount `path` and wait for its daemon. With `lazy` it vanishes now, and open files go on being served.

    `force` is for a daemon that does not reply: its pending requests fail, and it is waited for a few seconds
    only. `report` gets the reason why it takes long. MountError: no union is mounted there, it is in
    use, or it is another user's.
    """
    mountpoint = resolve_mountpoint(path)
    entry = mount_at(mountpoint)
    if entry is None:
        raise MountError(f"nothing is mounted on {mountpoint}: `pyunionfs status` lists the mounts")
    found = status_socket.find_daemons(entry)
    if not status_socket.is_pyunionfs(entry, found):
        raise MountError(f"{mountpoint} is a {entry.fstype} mount and not pyunionfs's: use `umount` for it")
    owner = entry.super_option("user_id")
    if os.geteuid() != 0 and owner != str(os.geteuid()):
        raise MountError(f"{mountpoint} was mounted by user {owner}: only that user or root can unmount it")
    daemons = _Daemons(mountpoint, entry, found)
    try:
        _unmount(mountpoint, entry, lazy, force)
        # A bind mount of a part ends alone: the union goes on.
        if not lazy and entry.root == "/":
            daemons.wait(force, report)
    finally:
        daemons.close()


def leave_mount(mountpoint: str) -> None:
    """Move this process's working directory out of a mount (an absolute path), which it would keep busy.

    For commands such as `pyunionfs umount .`: only their caller has a reason to be there.
    """
    if process.cwd_is_below(mountpoint):
        os.chdir("/")


def _unmount(mountpoint: str, entry: MountPoint, lazy: bool, force: bool) -> None:
    for attempt in range(_BUSY_RETRIES):
        try:
            unmount(mountpoint, lazy=lazy, force=force)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise MountError(f"cannot unmount {mountpoint}: {_reason(error)}") from error
        # The files of a program that has just ended may not be closed yet.
        if attempt + 1 < _BUSY_RETRIES:
            time.sleep(_BUSY_PAUSE)
    raise _busy_error(mountpoint, entry)


def _reason(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "the kernel allows it only in the user and mount namespace where it was mounted: do it there"
    return explain(OSError(error.errno, error.strerror))


class StillServedError(MountError):
    """The mount is unmounted, but the same union is mounted elsewhere, too, and is served there."""


class BusyError(MountError):
    """The mount is in use. The message is for the command line, the parts for the Python API's own one."""

    def __init__(self, mountpoint: str, reason: str, users: list[tuple[int, str]]) -> None:
        super().__init__(
            f"{mountpoint} is busy: {reason}; end that first, or detach it with"
            f" `pyunionfs umount --lazy {shlex.quote(mountpoint)}`"
        )
        self.mountpoint = mountpoint
        self.reason = reason
        self.users = users
        """Processes that use it, as far as they are known: pid and name."""


def _busy_error(mountpoint: str, entry: MountPoint) -> BusyError:
    above = [each.path for each in mount_table() if each.parent_id == entry.mount_id]
    if above:
        return BusyError(mountpoint, f"{above[0]} is mounted in it", [])
    users = process.processes_using(mountpoint)
    # A command has its caller's open files, which are the caller's to close.
    users = [each for each in users if each[0] != os.getpid()] or users
    if not users:
        return BusyError(mountpoint, "files in it are in use", [])
    return BusyError(mountpoint, f"in use by {format_processes(users)}", users)


def format_processes(users: list[tuple[int, str]]) -> str:
    """Processes as text: `bash (pid 7), make (pid 8)`."""
    return ", ".join(f"{name} (pid {pid})" for pid, name in users)


def _is_dead(mountpoint: str) -> bool:
    return process.run_in_child(lambda: os.statvfs(mountpoint), _STATVFS_TIMEOUT) == errno.ENOTCONN


class _Daemons:
    """The daemons of a mount, found before it is unmounted, and waited for after."""

    def __init__(self, mountpoint: str, entry: MountPoint, found: list[status_socket.DaemonInfo]) -> None:
        self._mountpoint = mountpoint
        self._entry = entry
        self._names = {each.name for each in found}
        self._dead = not found and _is_dead(mountpoint)
        # A pid namespace may hide one: then it has exited when its socket is gone.
        self._hidden = {each.name for each in found if each.pid == 0}
        pidfds = [process.open_pidfd(each.pid) for each in found if each.pid != 0]
        self._pidfds = [pidfd for pidfd in pidfds if pidfd is not None]

    def wait(self, force: bool, report: Callable[[str], None]) -> None:
        """Wait until they have exited. They may have much to write out, or serve a bind mount elsewhere.

        With `force` one that does not exit may be stuck for good, and is not waited for.
        """
        mountpoint = self._mountpoint
        if self._dead:
            return
        if not self._names:
            report(f"the daemon of {mountpoint} was not found, and is not waited for")
            return
        if force:
            if not self._exited(_FORCE_TIMEOUT):
                report(f"{mountpoint} is unmounted, but its daemon has not ended yet")
            return
        if self._exited(_BIND_TIMEOUT):
            return
        copies = [each.path for each in mount_table() if each.device == self._entry.device]
        # Else it is writing out, and the device number is another mount's by now.
        if copies and self._still_serving():
            raise StillServedError(
                f"{mountpoint} is unmounted, but {copies[-1]} shows the same union, and the daemon serves"
                f" that: `pyunionfs umount {shlex.quote(copies[-1])}` ends it"
            )
        if self._exited(_EXIT_TIMEOUT):
            return
        if self._still_serving():
            raise StillServedError(
                f"{mountpoint} is unmounted here, but its daemon still serves it in another mount namespace"
                " (a container that was started meanwhile): it ends when that does"
            )
        report(f"waiting until the data of {mountpoint} is written out")
        self._exited(None)

    def _exited(self, timeout: float | None) -> bool:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        for pidfd in self._pidfds:
            left = None if timeout is None else max(deadline - time.monotonic(), 0)
            if not process.wait_for_exit(pidfd, left):
                return False
        while self._hidden & {each.name for each in status_socket.find_daemons(self._entry)}:
            if time.monotonic() > deadline:
                return False
            time.sleep(_SOCKET_PAUSE)
        return True

    def _still_serving(self) -> bool:
        """Whether one still replies to queries, which it does not while it writes out."""
        daemons = status_socket.query_daemons(status_socket.owner_of(self._entry))
        return any(each.status is not None and each.name in self._names for each in daemons)

    def close(self) -> None:
        while self._pidfds:
            os.close(self._pidfds.pop())
