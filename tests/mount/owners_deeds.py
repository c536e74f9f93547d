"""Mounts and tries what owners do: `-m tests.mount.owners_deeds SIDE DIRECTORY OPTIONS`.

As an ordinary user, or as root of a user namespace; SIDE `ours-many` makes one with all ids that the user
has. Says as JSON what was answered, and what merged and upper then hold.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.mount.owners_rig import answer, fuse_overlayfs, ours, seen


def _touch(path: str) -> None:
    Path(path).write_text("new")


def main(side: str, base: Path, options: str) -> None:
    side, _, many = side.partition("-")
    if many:
        unshare = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount"]
        module = [sys.executable, "-B", "-m", "tests.mount.owners_deeds", side, str(base), options]
        os.execvp(unshare[0], [*unshare, *module])
    acts: dict[str, Callable[[], object]] = {
        "chown to unknown": lambda: os.chown("mine", 5, 5),
        "chown to root": lambda: os.chown("mine", 0, 0),
        "create": lambda: _touch("d/new"),
        "mkdir": lambda: os.mkdir("d/dir", 0o750),
        "symlink": lambda: os.symlink("to", "d/link"),
        "chmod": lambda: os.chmod("mine", 0o4711),
        "chmod another's": lambda: os.chmod("another", 0o600),
        "write another's": lambda: _touch("another"),
        "rename another's": lambda: os.rename("another", "d/another"),
        "unlink": lambda: os.unlink("d/low"),
        "read by ACL": lambda: os.getxattr("acl", "system.posix_acl_access"),
    }
    with (ours if side == "ours" else fuse_overlayfs)(base, options) as merged:
        os.chdir(merged)
        answers = {name: answer(act) for name, act in acts.items()}
        os.chdir("/")
        found = seen(merged)
    print(json.dumps({"answers": answers, "merged": found, "upper": seen(base / "upper")}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
