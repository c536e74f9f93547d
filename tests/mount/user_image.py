"""What an ordinary user with a single id does with an image: `python -m tests.mount.user_image DIRECTORY`.

The layers say owners and modes by attributes; nothing on the command line does. It asserts every result.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.mount.rig import run
from tests.support.images import plant
from tests.support.mounts import make_directories
from unionfs.image.store import Store

OVERRIDE = "user.containers.override_stat"


def main(home: Path) -> None:
    plant(Store(home / "store"), "debian:12", [{"etc/a": b"low", "gone": b"x"}, {"gone-": None}])
    for path in home.glob("store/trees/*/**"):
        os.setxattr(path, OVERRIDE, b"0:0:0755")
    make_directories(home, "merged", "upper", "work")
    merged = home / "merged"
    run("mount", "--store", home / "store", "--image", "debian:12", home / "upper", home / "work", merged)
    assert os.listdir(merged) == ["etc"]
    st = (merged / "etc").stat()
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (0, 0, 0o755)
    run("umount", merged)
    assert os.getxattr(home / "upper", OVERRIDE) == b"0:0:755"
    print("all done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
