"""Changes the flags of a served mount, for `mount -o remount`: `ro`, `nosuid` and the like.

The union's layers stay: as overlayfs does, a remount ignores options that concern them. Nothing here makes a
mount writable that has no upper.
"""

from __future__ import annotations

import errno

from unionfs.control import status_socket
from unionfs.errors import MountError
from unionfs.linux.mount import MountPoint, mount_at
from unionfs.options.mount_options import resolve_mountpoint
from unionfs.transport.mount import FuseMountOptions, change_flags


def remount(path: str, options: FuseMountOptions) -> None:
    """Give the mount at `path` these flags and no others. MountError: it was refused, nothing has changed."""
    mountpoint = resolve_mountpoint(path)
    entry = mount_at(mountpoint)
    if entry is None:
        raise MountError(f"cannot remount {mountpoint}: nothing is mounted there")
    if not status_socket.is_pyunionfs(entry, status_socket.find_daemons(entry)):
        raise MountError(f"cannot remount {mountpoint}: it is a {entry.fstype} mount and not pyunionfs's")
    if "ro" in entry.super_options and not options.read_only:
        _refuse_without_upper(mountpoint, entry)
    try:
        change_flags(mountpoint, options)
    except OSError as error:
        raise MountError(f"cannot remount {mountpoint}: {_reason(error)}") from error
    # A daemon that replies has read the new flags, and has set those of upper's private mount.
    status_socket.query_mount(entry)


def _refuse_without_upper(mountpoint: str, entry: MountPoint) -> None:
    known = [each.status["upper"] for each in status_socket.query_mount(entry) if each.status is not None]
    if not known:
        raise MountError(
            f"cannot remount {mountpoint} for writing: its daemon does not reply: see `pyunionfs status`"
        )
    if known[0] is None:
        raise MountError(
            f"cannot remount {mountpoint} for writing: it has no upper; unmount it, and mount it with"
            " upperdir= and workdir="
        )


def _reason(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "files in it are open for writing (`fuser -vm` shows the processes)"
    if error.errno == errno.EPERM:
        return "only root may; unmount it, and mount it with other options"
    return error.strerror or str(error)
