"""Becomes an ordinary user, then runs a module of the test suite: `-m tests.programs.as_user UID GID MODULE`.

Must be started by root in a mount namespace of its own (`unshare --mount`): it mounts what the user needs
(`testing/reach.py`).
"""

from __future__ import annotations

import os
import sys

from testing.mounts import environment
from testing.reach import make_reachable, open_fuse_to_all, program_paths
from tests.support import transports


def main(arguments: list[str]) -> None:
    """Prepare the namespace, become the user, run the module."""
    uid, gid, *rest = arguments
    open_fuse_to_all()
    make_reachable(sorted(program_paths()))
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    os.chdir("/")
    names = ("PATH", "LANG", "PYTHONPATH", transports.VARIABLE)
    kept = {name: value for name, value in environment().items() if name in names}
    os.execve(
        sys.executable, [sys.executable, "-B", "-m", *rest], {**kept, "HOME": "/", "PYTHONSAFEPATH": "1"}
    )


if __name__ == "__main__":
    main(sys.argv[1:])
