"""/dev of a container: a tmpfs with the harmless nodes, terminals of its own, and the usual links.

`Devices` is made while the host's files can be reached, `populate` called in the container's root.
"""

from __future__ import annotations

import os
import stat

from unionfs.linux import mount_calls
from unionfs.linux.mount_calls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID

NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
"""Name, and major and minor number (config-linux.md, Default Devices)."""

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
    """The detached mounts that become /dev."""

    def __init__(self) -> None:
        self.dev = mount_calls.new_mount(
            "tmpfs", {"mode": "755", "size": "65536k"}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
        )
        apart = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        self.shm = mount_calls.new_mount("tmpfs", {"mode": "1777", "size": "65536k"}, apart)
        self.mqueue = mount_calls.new_mount("mqueue", {}, apart)
        self.nodes: dict[str, int] = {}
        if not _may_make_nodes(self.dev):
            self.nodes = {name: mount_calls.clone(f"/dev/{name}") for name in NODES}

    def populate(self, terminals: int, console: str | None) -> None:
        """Fill the /dev on which the tmpfs is mounted now; *terminals* is a detached devpts.

        *console*: the path of the terminal that is shown as /dev/console, too.
        """
        for name, number in NODES.items():
            path = f"/dev/{name}"
            if name in self.nodes:
                _touch(path)
                attach_at(self.nodes[name], path)
            else:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*number))
                os.chmod(path, 0o666)
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


def attach_at(tree: int, path: str) -> None:
    """Mount a detached mount at a path, whose last component is no symlink, and close it."""
    target = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mount_calls.attach(tree, target)
    finally:
        os.close(target)
        os.close(tree)


def _may_make_nodes(tmpfs: int) -> bool:
    """Whether mknod(2) works there: in a user namespace it does not, and some sandboxes deny it."""
    try:
        os.mknod("probe", stat.S_IFCHR | 0o600, os.makedev(*NODES["null"]), dir_fd=tmpfs)
    except PermissionError:
        return False
    os.unlink("probe", dir_fd=tmpfs)
    return True


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
