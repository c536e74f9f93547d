"""Runs a module where engines work: `-m tests.containers.start UID GID MODULE ...`, as root or as that user.

Must be started by root in a mount and a process namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.programs import as_user
from tests.support.mounts import mount

CGROUP2_MAGIC = 0x63677270


def prepare_cgroups() -> None:
    """Have crun find cgroups of the second version alone: it refuses the mixture that some machines have."""
    words = ["stat", "--file-system", "--format=%t", "/sys/fs/cgroup"]
    if subprocess.run(words, capture_output=True, text=True).stdout.strip() != f"{CGROUP2_MAGIC:x}":
        mount("none", Path("/sys/fs/cgroup"), "cgroup2")


def main(arguments: list[str]) -> None:
    prepare_cgroups()
    # Engines leave locks and caches in there, whatever they are configured for.
    mount("tmpfs", Path("/run"), "tmpfs", 0, "mode=755,size=64m")
    uid, _, *module = arguments
    if int(uid) != 0:
        as_user.main(arguments)
    os.execv(sys.executable, [sys.executable, "-B", "-m", *module])


if __name__ == "__main__":
    main(sys.argv[1:])
