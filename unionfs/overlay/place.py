"""Where directories lie in their filesystems, by whatever mount they are reached."""

from __future__ import annotations

import os

from unionfs.linux import mount
from unionfs.linux.mount import MountPoint

Place = tuple[tuple[int, int], tuple[str, ...]]


def place_of(path: str, table: dict[int, MountPoint]) -> Place:
    """Where a directory lies in its filesystem, so that bind mounts of one tree are seen to be the same."""
    entry = table.get(mount_id_of(path))
    if entry is None:  # a mount outside of this process's root directory: all that is known is the path
        return (-1, os.stat(path).st_dev), _parts(path)
    below = os.path.relpath(path, entry.path)
    return entry.device, _parts(entry.root) + (() if below == "." else _parts(below))


def place_by_table(path: str, table: list[MountPoint]) -> Place | None:
    """The same without a look at it, for a real path: it is on what is mounted last at or above it."""
    parts = _parts(path)
    found, length = None, -1
    for entry in table:
        at = _parts(entry.path)
        if len(at) >= length and parts[: len(at)] == at:
            found, length = entry, len(at)
    return None if found is None else (found.device, _parts(found.root) + parts[length:])


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def within(inner: Place, outer: Place) -> bool:
    """Whether `inner` lies below `outer` or is the same."""
    return inner[0] == outer[0] and inner[1][: len(outer[1])] == outer[1]


def mount_id_of(path: str) -> int:
    """The mount that a directory is on."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return mount.mount_id_of(fd)
    finally:
        os.close(fd)
