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
from unionfs.container.volume_mounts import APART, VolumeMounts, make_target
from unionfs.linux import mount_calls
from unionfs.linux.mount_calls import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
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

_CGROUPS = "/sys/fs/cgroup"


class Rootfs:
    """Made while the host's files can be reached; then `enter`, in a mount namespace of its own, once."""

    def __init__(self, root: str, volumes: list[Volume], files: list[tuple[str, str]]) -> None:
        """*root* is the mounted union; *files* are files of the host, and their paths in the container."""
        self.root = root
        self.proc = mount_calls.new_mount("proc", {}, APART)
        self.sys = _sysfs()
        self.devices = Devices()
        self.volumes = VolumeMounts(volumes)
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
        self.volumes.attach()
        for tree, target in self.files:
            make_target(target, is_directory=False)
            attach_at(tree, target, follow=True)
        _protect()
        set_root(MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if read_only else 0))


def _sysfs() -> int:
    try:
        return mount_calls.new_mount("sysfs", {}, APART | MOUNT_ATTR_RDONLY)
    except PermissionError:
        # A user namespace may mount it with a network of its own only: the host's is shown instead.
        tree = mount_calls.clone("/sys", recursive=True)
        mount_calls.set_attributes(tree, APART | MOUNT_ATTR_RDONLY, recursive=True)
        return tree


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
            tree = mount_calls.new_mount("tmpfs", {}, APART | MOUNT_ATTR_RDONLY)
        else:
            tree = mount_calls.clone("/dev/null")
        attach_at(tree, path)


def _make_read_only(path: str) -> None:
    tree = mount_calls.clone(path)
    mount_calls.set_attributes(tree, MOUNT_ATTR_RDONLY)
    attach_at(tree, path)


def set_root(attributes: int) -> None:
    """Set attributes (`MOUNT_ATTR_*`) of the mount that is this process's root."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    mount_calls.set_attributes(root, attributes)
    os.close(root)
