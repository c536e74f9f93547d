"""/dev of a container: a tmpfs with the harmless nodes, terminals of its own, and the usual links.

`Devices` is made while the host's files can be reached, `populate` called in the container's root.
"""

from __future__ import annotations

import os

from unionfs.linux import mount_calls
from unionfs.linux.mount_calls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID

NODES = ("null", "zero", "full", "random", "urandom", "tty")
"""As in config-linux.md, Default Devices."""

LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}

_TTY_GROUP = 5
"""The group of terminals, in Debian as everywhere."""


class Devices:
    """The detached mounts that become /dev.

    The nodes are the host's, each mounted by itself, and all else in the container is nodev: its root may
    make device nodes (CAP_MKNOD, which Docker leaves it), but not use them. Docker has a cgroup for that.
    """

    def __init__(self) -> None:
        apart = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        self.dev = mount_calls.new_mount("tmpfs", {"mode": "755", "size": "65536k"}, apart)
        self.shm = mount_calls.new_mount("tmpfs", {"mode": "1777", "size": "65536k"}, apart)
        self.mqueue = mount_calls.new_mount("mqueue", {}, apart)
        self.nodes = {name: mount_calls.clone(f"/dev/{name}") for name in NODES}

    def populate(self, terminals: int, console: str | None) -> None:
        """Fill the /dev on which the tmpfs is mounted now; *terminals* is a detached devpts.

        *console*: the path of the terminal that is shown as /dev/console, too.
        """
        for name, tree in self.nodes.items():
            _touch(f"/dev/{name}")
            attach_at(tree, f"/dev/{name}")
        for name, target in LINKS.items():
            os.symlink(target, f"/dev/{name}")
        for name, tree in (("pts", terminals), ("shm", self.shm), ("mqueue", self.mqueue)):
            os.mkdir(f"/dev/{name}", 0o755)
            attach_at(tree, f"/dev/{name}")
        if console is not None:
            _touch("/dev/console")
            attach_at(mount_calls.clone(console), "/dev/console")


def new_terminals(gid_is_mapped: bool) -> int:
    """A devpts of its own, detached; with *gid_is_mapped* its terminals belong to group 5."""
    options = {"newinstance": None, "ptmxmode": "0666", "mode": "0620"}
    if gid_is_mapped:
        options["gid"] = str(_TTY_GROUP)
    return mount_calls.new_mount("devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)


def tty_group_is_mapped() -> bool:
    """Whether group 5 exists in this user namespace."""
    with open("/proc/self/gid_map", encoding="utf-8") as table:
        ranges = [tuple(map(int, line.split())) for line in table]
    return any(first <= _TTY_GROUP < first + count for first, _, count in ranges)


def attach_at(tree: int, path: str, *, follow: bool = False) -> None:
    """Mount a detached mount at a path and close it; a symlink is followed as far as *follow* says."""
    target = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        mount_calls.attach(tree, target)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(target)
        os.close(tree)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
