"""The table of mounts, and mounting and unmounting (`mount_calls.py`) under one name.

Failures are `OSError` with the kernel's errno. Nothing here knows FUSE, unions or messages for people.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from unionfs.linux.mount_calls import (
    MNT_DETACH,
    MNT_FORCE,
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_POSIXACL,
    MS_RDONLY,
    MS_RELATIME,
    MS_REMOUNT,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    UMOUNT_NOFOLLOW,
    mount,
    umount,
)

__all__ = [
    "MNT_DETACH",
    "MNT_FORCE",
    "MS_DIRSYNC",
    "MS_LAZYTIME",
    "MS_NOATIME",
    "MS_NODEV",
    "MS_NODIRATIME",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_NOSYMFOLLOW",
    "MS_POSIXACL",
    "MS_RDONLY",
    "MS_RELATIME",
    "MS_REMOUNT",
    "MS_STRICTATIME",
    "MS_SYNCHRONOUS",
    "UMOUNT_NOFOLLOW",
    "MountPoint",
    "mount",
    "mount_at",
    "mount_id_of",
    "mount_table",
    "options_of",
    "parse_mount",
    "umount",
    "unescape_octal",
]


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of /proc/self/mountinfo, see proc_pid_mountinfo(5)."""

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    root: str  # the directory of the filesystem that is mounted at `path`
    path: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]

    def super_option(self, name: str) -> str | None:
        for option in self.super_options:
            key, equals, value = option.partition("=")
            if key == name and equals:
                return value
        return None


def mount_table() -> list[MountPoint]:
    """The mounts of this process's mount namespace, in the order in which they were made."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return [parse_mount(line) for line in table]


def options_of(mount_id: int) -> tuple[str, ...] | None:
    """The options of one mount, or None where this namespace does not have it. Parses no other line."""
    start = b"%d " % mount_id
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            if line.startswith(start):
                return parse_mount(os.fsdecode(line)).options
    return None


def parse_mount(line: str) -> MountPoint:
    fields = line.rstrip("\n").split(" ")
    dash = fields.index("-", 6)
    major, minor = fields[2].split(":")
    # A mount without a source has an empty field there, and super options may be missing altogether.
    fstype, source, super_options = (fields[dash + 1 :] + ["", ""])[:3]
    return MountPoint(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=(int(major), int(minor)),
        root=unescape_octal(fields[3]),
        path=unescape_octal(fields[4]),
        options=tuple(fields[5].split(",")),
        fstype=unescape_octal(fstype),
        source=unescape_octal(source),
        super_options=tuple(unescape_octal(option) for option in super_options.split(",")),
    )


def unescape_octal(field: str) -> str:
    r"""Undo the kernel's escapes: space, tab, newline, backslash and others are written as \040 and so on."""
    if "\\" not in field:
        return field
    raw = os.fsencode(field)
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found[1], 8) & 255,)), raw))


def mount_at(path: str, table: list[MountPoint] | None = None) -> MountPoint | None:
    """The mount that is on top at exactly this path, or None when nothing is mounted there."""
    on_top = None
    for entry in mount_table() if table is None else table:
        if entry.path == path:
            on_top = entry
    return on_top


def mount_id_of(fd: int) -> int:
    """The id of the mount that a descriptor is on. rename(2) between two mounts fails (EXDEV)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(f"/proc/self/fdinfo/{fd} has no mnt_id")
