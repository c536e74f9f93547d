"""Ending a mount from outside: unmount, and wait until its daemon has written everything out and is gone.

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

_BUSY_TRIES = 5
_BUSY_PAUSE = 0.1
_SOCKET_PAUSE = 0.05
_COPY_PATIENCE = 1.0
_PATIENCE = 5.0
_FORCE_PATIENCE = 2.0
_ANSWER_TIME = 1.0


def _to_stderr(text: str) -> None:
    print(f"pyunionfs: {text}", file=sys.stderr)


def umount(
    path: str, *, lazy: bool = False, force: bool = False, tell: Callable[[str], None] = _to_stderr
) -> None:
    """Unmount `path` and wait for its daemon. With `lazy` it vanishes now, and open files go on being served.

    `force` is for a daemon that does not answer: what it was asked fails, and it is waited for no longer than
    a few seconds. `tell` is told why it takes long. MountError: nothing of ours is mounted there, it is in
    use, or it is another user's.
    """
    mountpoint = resolve_mountpoint(path)
    entry = mount_at(mountpoint)
    if entry is None:
        raise MountError(f"nothing is mounted on {mountpoint}: `pyunionfs status` lists the mounts")
    found = status_socket.find(entry)
    if not status_socket.is_ours(entry, found):
        raise MountError(f"{mountpoint} is a {entry.fstype} mount and not pyunionfs's: use `umount` for it")
    owner = entry.super_option("user_id")
    if os.geteuid() != 0 and owner != str(os.geteuid()):
        raise MountError(f"{mountpoint} was mounted by user {owner}: only that user or root can unmount it")
    daemons = _Daemons(mountpoint, entry, found)
    try:
        _unmount(mountpoint, entry, lazy, force)
        # A bind mount of a part ends alone: the union goes on.
        if not lazy and entry.root == "/":
            daemons.wait(force, tell)
    finally:
        daemons.close()


def step_out(mountpoint: str) -> None:
    """Leave a mount (an absolute path) with this process's working directory, which would keep it busy.

    For commands such as `pyunionfs umount .`: only their caller has a reason to be there.
    """
    if process.works_below(mountpoint):
        os.chdir("/")


def _unmount(mountpoint: str, entry: MountPoint, lazy: bool, force: bool) -> None:
    for attempt in range(_BUSY_TRIES):
        try:
            unmount(mountpoint, lazy=lazy, force=force)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise MountError(f"cannot unmount {mountpoint}: {_why(error)}") from error
        # A program that has just ended may still be letting go of its files.
        if attempt + 1 < _BUSY_TRIES:
            time.sleep(_BUSY_PAUSE)
    raise _busy(mountpoint, entry)


def _why(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "the kernel allows it only in the user and mount namespace where it was mounted: do it there"
    return explain(OSError(error.errno, error.strerror))


class StillServedError(MountError):
    """What was asked for is unmounted, but the same union is mounted elsewhere, too, and goes on there."""


class BusyError(MountError):
    """It is in use. The message is for the command line; the parts are for who says it in other words."""

    def __init__(self, mountpoint: str, reason: str, users: list[tuple[int, str]]) -> None:
        super().__init__(
            f"{mountpoint} is busy: {reason}; end that first, or take it away under them with"
            f" `pyunionfs umount --lazy {shlex.quote(mountpoint)}`"
        )
        self.mountpoint = mountpoint
        self.reason = reason
        self.users = users
        """Processes, as far as they are known: pid and name."""


def _busy(mountpoint: str, entry: MountPoint) -> BusyError:
    above = [each.path for each in mount_table() if each.parent_id == entry.mount_id]
    if above:
        return BusyError(mountpoint, f"{above[0]} is mounted in it", [])
    users = process.users_of(mountpoint)
    # A command has its caller's open files, which are the caller's to close.
    users = [each for each in users if each[0] != os.getpid()] or users
    if not users:
        return BusyError(mountpoint, "files in it are in use", [])
    return BusyError(mountpoint, f"in use by {named(users)}", users)


def named(users: list[tuple[int, str]]) -> str:
    """Processes for people."""
    return ", ".join(f"{name} (pid {pid})" for pid, name in users)


def _has_died(mountpoint: str) -> bool:
    return process.try_in_child(lambda: os.statvfs(mountpoint), _ANSWER_TIME) == errno.ENOTCONN


class _Daemons:
    """Those who serve a mount, found before it is unmounted, and waited for after."""

    def __init__(self, mountpoint: str, entry: MountPoint, found: list[status_socket.Running]) -> None:
        self._mountpoint = mountpoint
        self._entry = entry
        self._names = {each.name for each in found}
        self._dead = not found and _has_died(mountpoint)
        # A pid namespace may hide one: then its socket tells when it is gone.
        self._hidden = {each.name for each in found if each.pid == 0}
        pidfds = [process.open_process(each.pid) for each in found if each.pid != 0]
        self._pidfds = [pidfd for pidfd in pidfds if pidfd is not None]

    def wait(self, force: bool, tell: Callable[[str], None]) -> None:
        """Until they are gone. They may have much to write out, or serve a copy of the mount elsewhere.

        With `force` one that does not end may be stuck for good, and is left alone.
        """
        mountpoint = self._mountpoint
        if self._dead:
            return
        if not self._names:
            tell(f"the daemon of {mountpoint} was not found, and is not waited for")
            return
        if force:
            if not self._gone(_FORCE_PATIENCE):
                tell(f"{mountpoint} is unmounted, but its daemon has not ended yet")
            return
        if self._gone(_COPY_PATIENCE):
            return
        copies = [each.path for each in mount_table() if each.device == self._entry.device]
        # Else it is writing out, and the number is another mount's by now.
        if copies and self._serve_on():
            raise StillServedError(
                f"{mountpoint} is unmounted, but {copies[-1]} shows the same union, and the daemon serves"
                f" that: `pyunionfs umount {shlex.quote(copies[-1])}` ends it"
            )
        if self._gone(_PATIENCE):
            return
        if self._serve_on():
            raise StillServedError(
                f"{mountpoint} is unmounted here, but its daemon still serves it in another mount namespace"
                " (a container that was started meanwhile): it ends when that does"
            )
        tell(f"waiting until the data of {mountpoint} is written out")
        self._gone(None)

    def _gone(self, timeout: float | None) -> bool:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        for pidfd in self._pidfds:
            left = None if timeout is None else max(deadline - time.monotonic(), 0)
            if not process.wait_for_exit(pidfd, left):
                return False
        while self._hidden & {each.name for each in status_socket.find(self._entry)}:
            if time.monotonic() > deadline:
                return False
            time.sleep(_SOCKET_PAUSE)
        return True

    def _serve_on(self) -> bool:
        """Whether one still answers questions, which it does not when it writes out."""
        asked = status_socket.running(status_socket.owner_of(self._entry))
        return any(each.status is not None and each.name in self._names for each in asked)

    def close(self) -> None:
        while self._pidfds:
            os.close(self._pidfds.pop())
