"""Data of an ordinary user's mount, on a disk with little room: `python -m ... DIRECTORY`.

Run as that user (see as_user.py) with an empty directory of its own, in which `disk` is the small filesystem.
Prints "all done" at its end.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from tests.mount.rig import eventually, mount, run

BLOCK = bytes(1 << 16)
OLD = 1_000_000_000


def overfill(path: Path) -> int:
    """Write 8 MiB where there are 4, and close; the errno that it ended with."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    code = 0
    try:
        for _ in range(128):
            os.write(fd, BLOCK)
    except OSError as error:
        code = error.errno or 0
    try:
        os.close(fd)
    except OSError as error:
        code = error.errno or 0
    return code


def full_disk(base: Path) -> None:
    """What was not stored is not shown."""
    for name in ("lower file", "new"):
        path, upper = base / "merged" / name, base / "upper" / name
        assert overfill(path) == errno.ENOSPC, name
        assert eventually(lambda: path.stat().st_size == upper.stat().st_size), name  # noqa: B023
        assert path.read_bytes() == upper.read_bytes(), name
        path.unlink()
        assert eventually(lambda: not upper.is_file()), name  # noqa: B023


def access_times(base: Path) -> None:
    """A lower's is not changed by reading, upper's not by O_NOATIME."""
    (base / "merged" / "quiet").write_bytes(BLOCK)
    for path, flags, wanted in (
        (base / "lower" / "read", 0, OLD),
        (base / "upper" / "quiet", os.O_NOATIME, OLD),
    ):
        os.utime(path, (OLD, OLD + 1))
        fd = os.open(base / "merged" / path.name, os.O_RDONLY | flags)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 4, 0) == BLOCK[:4]
        os.close(fd)
        assert path.stat().st_atime == wanted, path


def main() -> None:
    base = Path(sys.argv[1])
    for name in ("upper", "work"):
        (base / "disk" / name).mkdir()
        os.symlink(f"disk/{name}", base / name)
    for name in ("lower", "merged"):
        (base / name).mkdir()
    for name in ("lower file", "read"):
        (base / "lower" / name).write_bytes(BLOCK)
    mount(base)
    try:
        access_times(base)
        full_disk(base)
    finally:
        run("umount", base / "merged")
    print("all done")


if __name__ == "__main__":
    main()
