"""What is mounted in a container beside its root: bind mounts of the host and tmpfs, taken up and attached.

`VolumeMounts` is made while the host's files can be reached, `attach` called in the container's root: what
its symlinks say, they cannot lead outside. A launcher loads this: it imports little.
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.container.devices import attach_at
from unionfs.linux import mount_calls
from unionfs.linux.mount_calls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
)

TYPE_CHECKING = False  # that of typing, which takes long to load
if TYPE_CHECKING:
    from collections.abc import Iterable

    from unionfs.container.orders import Volume

APART = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
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


class VolumeMounts:
    """Detached mounts, and the paths in the container at which they belong."""

    def __init__(self, volumes: Iterable[Volume]) -> None:
        self._found = [(volume["target"], *_tree(volume)) for volume in volumes]

    def attach(self) -> None:
        """Mount them in this process's root; what is missing of their mountpoints is made."""
        for target, tree, is_directory in self._found:
            make_target(target, is_directory)
            attach_at(tree, target, follow=True)


def _tree(volume: Volume) -> tuple[int, bool]:
    """The detached mount of a volume, and whether it is a directory."""
    if volume["kind"] == "tmpfs":
        attributes = APART | (MOUNT_ATTR_RDONLY if volume["read_only"] else 0)
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


def make_target(path: str, is_directory: bool) -> None:
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
