"""The root of a container, as its process sees it: pivot_root(2), /proc, /sys, /dev, and further mounts.

All that comes from the host (sources of bind mounts, new filesystems) is taken as a detached mount first.
Then the root is changed and the old one detached, and only then is anything looked up in the container: what
its symlinks say, they cannot lead outside. Never chroot(2).
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.container.devices import Devices, attach_at
from unionfs.linux import mount_calls
from unionfs.linux.mount_calls import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
)

TYPE_CHECKING = False  # that of typing, which takes long to load
if TYPE_CHECKING:
    from unionfs.container.orders import Volume

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Docker's defaults, as in moby's oci/defaults.go; of each what the kernel has."""

_APART = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_CGROUPS = "/sys/fs/cgroup"
_FLAGS = {
    "ro": (MOUNT_ATTR_RDONLY, True),
    "rw": (MOUNT_ATTR_RDONLY, False),
    "nosuid": (MOUNT_ATTR_NOSUID, True),
    "suid": (MOUNT_ATTR_NOSUID, False),
    "nodev": (MOUNT_ATTR_NODEV, True),
    "dev": (MOUNT_ATTR_NODEV, False),
    "noexec": (MOUNT_ATTR_NOEXEC, True),
    "exec": (MOUNT_ATTR_NOEXEC, False),
}
TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks")
TMPFS_FLAGS = tuple(_FLAGS)
"""The options that a tmpfs of the container may have."""


class Rootfs:
    """Made while the host's files can be reached; then `enter`, in a mount namespace of its own, once."""

    def __init__(self, root: str, volumes: list[Volume], files: list[tuple[str, str]]) -> None:
        """*root* is the mounted union; *files* are files of the host, and their paths in the container."""
        self.root = root
        self.proc = mount_calls.new_mount("proc", {}, _APART)
        self.sys = _sysfs()
        self.devices = Devices()
        self.volumes = [(volume["target"], *_tree(volume)) for volume in volumes]
        self.files = [(mount_calls.clone(source), target) for source, target in files]

    def enter(self, terminals: int, console: str | None, *, read_only: bool) -> None:
        """Make it this process's root and mount all that belongs in it."""
        os.chdir(self.root)
        # The old root comes to lie on the new one, from where it is detached: no directory is needed for it.
        mount_calls.pivot_root(".", ".")
        mount_calls.umount(".", MNT_DETACH)
        os.chdir("/")
        for tree, path in ((self.proc, "/proc"), (self.sys, "/sys"), (self.devices.dev, "/dev")):
            _attach_at_directory(tree, path)
        self.devices.populate(terminals, console)
        for target, tree, is_directory in self.volumes:
            _make_target(target, is_directory)
            attach_at(tree, target, follow=True)
        for tree, target in self.files:
            _make_target(target, is_directory=False)
            attach_at(tree, target, follow=True)
        _protect()
        _set_root(MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if read_only else 0))


def _sysfs() -> int:
    try:
        return mount_calls.new_mount("sysfs", {}, _APART | MOUNT_ATTR_RDONLY)
    except PermissionError:
        # A user namespace may mount it with a network of its own only: the host's is shown instead.
        tree = mount_calls.clone("/sys", recursive=True)
        mount_calls.set_attributes(tree, _APART | MOUNT_ATTR_RDONLY, recursive=True)
        return tree


def _tree(volume: Volume) -> tuple[int, bool]:
    """The detached mount of a volume, and whether it is a directory."""
    if volume["kind"] == "tmpfs":
        attributes = _APART | (MOUNT_ATTR_RDONLY if volume["read_only"] else 0)
        options: dict[str, str | None] = {"mode": "1777"}
        for word in volume["options"]:
            if word in _FLAGS:
                bit, on = _FLAGS[word]
                attributes = attributes | bit if on else attributes & ~bit
            else:
                name, _, value = word.partition("=")
                options[name] = value
        return mount_calls.new_mount("tmpfs", options, attributes), True
    tree = mount_calls.clone(volume["source"], recursive=True)
    read_only = MOUNT_ATTR_RDONLY if volume["read_only"] else 0
    mount_calls.set_attributes(tree, MOUNT_ATTR_NODEV | read_only, recursive=True)
    return tree, stat.S_ISDIR(os.fstat(tree).st_mode)


def _attach_at_directory(tree: int, path: str) -> None:
    """Mount at a directory of the root, made if it is missing; what else is there is refused."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        os.mkdir(path, 0o755)
    else:
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "it is no directory in the container", path)
    attach_at(tree, path)


def _make_target(path: str, is_directory: bool) -> None:
    """Make what is missing of a mountpoint, as Docker does: root's, mode 0755."""
    try:
        found = os.stat(path).st_mode
    except FileNotFoundError:
        pass
    else:
        if stat.S_ISDIR(found) != is_directory:
            kind = "no directory" if is_directory else "a directory, but no file"
            raise NotADirectoryError(errno.ENOTDIR, f"in the container it is {kind}", path)
        return
    os.makedirs(path if is_directory else os.path.dirname(path), 0o755, exist_ok=True)
    if not is_directory:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _protect() -> None:
    """Hide what tells of or changes the whole machine."""
    for path in READ_ONLY:
        if os.path.exists(path):
            _make_read_only(path)
    for path in (*MASKED, _CGROUPS):
        try:
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            continue
        if is_directory:
            tree = mount_calls.new_mount("tmpfs", {}, _APART | MOUNT_ATTR_RDONLY)
        else:
            tree = mount_calls.clone("/dev/null")
        attach_at(tree, path)


def _make_read_only(path: str) -> None:
    tree = mount_calls.clone(path)
    mount_calls.set_attributes(tree, MOUNT_ATTR_RDONLY)
    attach_at(tree, path)


def _set_root(attributes: int) -> None:
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    mount_calls.set_attributes(root, attributes)
    os.close(root)
