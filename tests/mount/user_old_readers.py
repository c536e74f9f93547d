"""Old readers and lockers as an ordinary user: `-m tests.mount.user_old_readers HOME OPTIONS`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.mount.old_readers import FOLLOWED, KEPT, LOCKS, ONE_SET, outcomes_of_locks, populate, sees
from tests.support.mounts import make_directories, pyunionfs


def main(home: Path, options: str) -> None:
    make_directories(home)
    populate(home / "lower", home / "upper")
    for kind in LOCKS:
        (home / "lower" / kind).write_bytes(b"to be locked")
    layers = ([home / "lower"], home / "upper", home / "work", home / "merged")
    with pyunionfs(*layers, options=options.split(",")) as daemon:
        for name in (*FOLLOWED, *KEPT):
            assert sees(daemon.merged / name, "append"), name
        for kind in LOCKS:
            assert outcomes_of_locks(daemon.merged / kind, kind) == ONE_SET, kind
    print("all done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
