"""Renames of directories of lowers by an ordinary user: `python -m ... HOME`, run as that user."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.mount.renames import populate, programs_rename
from tests.support.mounts import make_directories, pyunionfs


def main(home: Path) -> None:
    make_directories(home)
    populate(home / "lower")
    layers = ([home / "lower"], home / "upper", home / "work", home / "merged")
    with pyunionfs(*layers) as daemon:
        programs_rename(daemon.merged)
    with pyunionfs(*layers) as daemon:
        assert (daemon.merged / "site/pkg/new").read_text() == "new"
    print("all done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
