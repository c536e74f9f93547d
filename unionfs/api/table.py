"""`unionfs.mounts` and `unionfs.umount`: all unions of this machine."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from unionfs.api import holders
from unionfs.api.keywords import StrOrBytesPath, one_path
from unionfs.control import status_socket, unmount
from unionfs.errors import MountError

logger = logging.getLogger("unionfs")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount, with the values of its daemon, which are empty if the state is "unreachable".

    `state` is "serving", "detached" (unmounted lazily while files of it are open, or mounted in another mount
    namespace) or "unreachable" (its daemon was killed, hangs, or is another user's).
    """

    path: Path
    """The mountpoint."""
    state: Literal["serving", "detached", "unreachable"]
    user: int
    """The ID of the user that mounted it."""
    pid: int | None
    """Of the daemon; None: it was killed, or is in a PID namespace that is not visible from here."""
    device: str
    """Major and minor number as in /proc/self/mountinfo, "0:57"."""
    lowers: tuple[Path, ...] = ()
    """Topmost first."""
    upper: Path | None = None
    work: Path | None = None
    options: tuple[str, ...] = ()
    """The words of `-o` in force, without defaults."""
    transport: str = ""
    started: datetime | None = None
    memory: int = 0
    """Resident memory of the daemon in bytes."""
    open_files: int = 0
    """How many files and directories of it are open; 0 if the daemon does not know, because the kernel opens
    them without a request (`silent_opens` of `pyunionfs status --json`)."""
    requests: int = 0
    """Number of requests since it was mounted."""


def mounts() -> list[Mounted]:
    """All mounts of pyunionfs that are visible from here, in the order of the mount table."""
    return [_mounted(status) for status in status_socket.list_mounts()]


def umount(path: StrOrBytesPath, *, lazy: bool = False) -> None:
    """Unmount the union at `path`, and wait until all data is written and its daemon has terminated.

    With `lazy` it is detached now, and open files are served until they are closed. MountError: no union is
    mounted there, it is in use, or it is another user's. A mount of another type is never unmounted.
    """
    try:
        unmount_or_busy(path, lazy=lazy)
    except unmount.BusyError as busy:
        raise MountError(f"{holders.busy_message(busy)}, or umount(lazy=True)") from None


def unmount_or_busy(path: StrOrBytesPath, *, lazy: bool) -> None:
    """`umount`, with `BusyError` unchanged."""
    unmount.umount(one_path("path", path), lazy=lazy, report=lambda text: logger.warning("%s", text))


def _mounted(status: dict[str, Any]) -> Mounted:
    known: dict[str, Any] = {}
    if status["state"] != "unreachable":
        known = {
            "lowers": tuple(map(Path, status["lowers"])),
            "upper": _path(status["upper"]),
            "work": _path(status["work"]),
            "options": tuple(status["options"]),
            "transport": status["transport"],
            "started": datetime.fromisoformat(status["started"]),
            "memory": status["memory"],
            "open_files": status["open_handles"],
            "requests": sum(status["requests"].values()),
        }
    return Mounted(
        path=Path(status["mountpoint"]),
        state=status["state"],
        user=status["user"],
        pid=status["pid"],
        device=status["device"],
        **known,
    )


def _path(path: str | None) -> Path | None:
    return None if path is None else Path(os.fspath(path))
