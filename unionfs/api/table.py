"""`unionfs.mounts` and `unionfs.umount`: the unions of this machine, whoever mounted them."""

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
    """One mount, as its daemon tells of it; the rest is empty where the state is "unreachable".

    `state` is "serving", "detached" (taken out of this tree while files of it are open, or mounted in another
    mount namespace) or "unreachable" (its daemon is dead, stuck, or another user's).
    """

    path: Path
    """The mountpoint."""
    state: Literal["serving", "detached", "unreachable"]
    user: int
    """The user id of who mounted it."""
    pid: int | None
    """Of the daemon; None: it is dead, or in a pid namespace that cannot be seen from here."""
    device: str
    """Major and minor number as in /proc/self/mountinfo, "0:57"."""
    lowers: tuple[Path, ...] = ()
    """The topmost first."""
    upper: Path | None = None
    work: Path | None = None
    options: tuple[str, ...] = ()
    """Those of `-o` that are in force, defaults left out."""
    transport: str = ""
    started: datetime | None = None
    memory: int = 0
    """Of the daemon, resident, in bytes."""
    open_files: int = 0
    """How many files and directories of it are open; 0 where the daemon is not told, because the kernel opens
    them without asking (`silent_opens` of `pyunionfs status --json`)."""
    requests: int = 0
    """How many it has answered since it was mounted."""


def mounts() -> list[Mounted]:
    """Every mount of pyunionfs that can be seen from here, in the order of the mount table."""
    return [_mounted(status) for status in status_socket.list_mounts()]


def umount(path: StrOrBytesPath, *, lazy: bool = False) -> None:
    """Unmount the union at `path` and return when everything is written out and its daemon is gone.

    With `lazy` it vanishes from the tree now, and open files go on being served. MountError: no union is
    mounted there, it is in use, or it is another user's. Somebody else's mount is never unmounted.
    """
    try:
        unmount_or_busy(path, lazy=lazy)
    except unmount.BusyError as busy:
        raise MountError(f"{holders.told(busy)}, or umount(lazy=True)") from None


def unmount_or_busy(path: StrOrBytesPath, *, lazy: bool) -> None:
    """`umount`, with the `BusyError` as it is."""
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
