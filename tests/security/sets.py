"""The capabilities and no_new_privs of every thread of a process; as a program, of a union's daemon.

`python -m tests.security.sets DIRECTORY` mounts a union of its own there, prints what its daemon has, and
unmounts. Runs as any user.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.support.mounts import make_directories, pyunionfs

FIELDS = ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs")

Sets = dict[str, int]


def of_thread(status: Path) -> Sets:
    lines = (line.partition(":") for line in status.read_text().splitlines())
    return {name: int(value, 16) for name, _, value in lines if name in FIELDS}


def of_threads(pid: int) -> list[Sets]:
    """Those of all threads that differ: one where all have the same."""
    found: list[Sets] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            sets = of_thread(thread / "status")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if sets not in found:
            found.append(sets)
    return found


def main(base: Path) -> None:
    lower, upper, work, merged = make_directories(base)
    (lower / "file").write_text("lower")
    with pyunionfs([lower], upper, work, merged) as daemon:
        # A worker has copied it up.
        os.truncate(lower / "file", 1 << 20)
        (merged / "file").chmod(0o700)
        print(json.dumps(of_threads(daemon.pid)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
