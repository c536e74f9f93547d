"""What an ordinary user needs of the machine, made in a mount namespace: /dev/fuse, Python and the checkout.

On a usual machine there is nothing to mount. But /dev/fuse may be closed to users, and Python or the checkout
may lie below a closed home. Nothing is undone: the namespace ends with the processes in it.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from testing.mounts import REPOSITORY, mount

MS_BIND = 4096


def open_fuse_to_all() -> None:
    """Put a /dev/fuse that every user may open over one that only root may."""
    info = os.stat("/dev/fuse")
    if info.st_mode & 0o006 == 0o006:
        return
    # A tmpfs over /mnt, because a device node does not work on a filesystem that is mounted nodev.
    mount("tmpfs", Path("/mnt"), "tmpfs", 0, "mode=755,size=64k")
    os.mknod("/mnt/fuse", stat.S_IFCHR | 0o666, info.st_rdev)
    os.chmod("/mnt/fuse", 0o666)
    subprocess.run(["mount", "--bind", "/mnt/fuse", "/dev/fuse"], check=True)
    subprocess.run(["umount", "--lazy", "/mnt"], check=True)


def make_reachable(paths: list[Path]) -> None:
    """Cover each closed directory above these with an open one that shows only these."""
    held = {path: os.open(path, os.O_PATH) for path in paths}
    for path in paths:
        for above in reversed(path.parents):
            if above.exists() and not above.stat().st_mode & 0o001:
                mount("tmpfs", above, "tmpfs", 0, "mode=755,size=1m")
    for path, descriptor in held.items():
        if not path.exists():
            path.mkdir(parents=True)
            # mount(2), for mount(8) would resolve the source to its path, which is covered now
            mount(f"/proc/self/fd/{descriptor}", path, "", MS_BIND)
        os.close(descriptor)


def program_paths() -> set[Path]:
    """Where the checkout and Python are."""
    return {REPOSITORY, *(Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix))}
