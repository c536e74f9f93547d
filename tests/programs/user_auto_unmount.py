"""What becomes of an ordinary user's mount with `auto_unmount`: `python -m ... DIRECTORY`.

Run as that user (see as_user.py) with an empty directory of its own; fusermount3 does the work.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.mount.rig import eventually, gone, mount, run
from tests.support.mounts import mount_types


def main(base: Path) -> None:
    """A killed daemon's mount goes; one that has ended well takes nothing with it."""
    for name in ("lower", "upper", "work", "merged"):
        (base / name).mkdir()
    (base / "lower" / "file").write_text("lower\n")
    merged = base / "merged"

    daemon = mount(base, "-o", "auto_unmount")
    (merged / "new").write_text("new\n")
    os.kill(daemon, 9)
    assert eventually(lambda: mount_types(merged) == []), "the mount stayed"
    assert eventually(lambda: gone(daemon))

    daemon = mount(base, "-o", "auto_unmount")
    assert (merged / "new").read_text() == "new\n"
    run("umount", merged)
    assert gone(daemon)
    daemon = mount(base)
    time.sleep(0.5)
    assert (merged / "file").read_text() == "lower\n", "the next mount was taken away"
    run("umount", merged)

    complaint = run(
        "mount",
        "-o",
        "nodiratime",
        *(base / name for name in ("lower", "upper", "work", "merged")),
        status=None,
    ).stderr
    if mount_types(merged):
        run("umount", merged)
    else:
        assert "unknown option 'nodiratime'; this fusermount3 does not take it" in complaint
    print("all done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
