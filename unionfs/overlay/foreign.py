"""Directories that other union filesystems use here: kernel overlayfs and fuse-overlayfs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from unionfs.errors import MountError
from unionfs.linux import mount


def refuse_foreign_use(upper: str, work: str) -> None:
    """Refuse directories that another program has. It takes no lock that could be seen here."""
    mine = {_identity(upper): ("upper", upper), _identity(work): ("work", work)}
    for _, program, path, where in foreign_directories():
        used = mine.get(_identity(path))
        if used is not None:
            kind, name = used
            raise MountError(
                f"{kind} {name} is in use by {program} mounted at {where}: two writers would destroy it; run"
                f" `umount {where}` first, or use other directories"
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        st = os.stat(path)
    except OSError:  # a directory that another mount named and that is gone, or that we may not see
        return None
    return st.st_dev, st.st_ino


def foreign_directories() -> Iterator[tuple[str, str, str, str]]:
    """(upper or work, program, directory, mountpoint) of every one that other union filesystems use here."""
    fuse_overlayfs = None
    for entry in mount.mount_table():
        if entry.fstype == "overlay":
            for name in ("upperdir", "workdir"):
                path = entry.super_option(name)
                # A relative path is relative to a directory that is not known any more.
                if path is not None and path.startswith("/"):
                    yield name.removesuffix("dir"), "kernel overlayfs", path, entry.path
        elif entry.fstype == "fuse.fuse-overlayfs":
            fuse_overlayfs = entry.path
    if fuse_overlayfs is not None:
        # Its mounts do not tell their layers; its command lines do.
        for process in os.listdir("/proc"):
            if process.isdigit():
                for name, path in _fuse_overlayfs_directories(process):
                    yield name.removesuffix("dir"), "fuse-overlayfs", path, fuse_overlayfs


def _fuse_overlayfs_directories(pid: str) -> list[tuple[str, str]]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = [os.fsdecode(argument) for argument in file.read().split(b"\0")]
        if os.path.basename(arguments[0]) != "fuse-overlayfs":
            return []
        cwd = os.readlink(f"/proc/{pid}/cwd")
    except (OSError, IndexError):  # it ended meanwhile, or is another user's
        return []
    words = (word for argument in arguments for word in argument.removeprefix("-o").split(","))
    named = (word.partition("=") for word in words)
    wanted = ("upperdir", "workdir")
    return [(name, os.path.join(cwd, path)) for name, _, path in named if name in wanted and path]
