"""The filesystem that all layers are on: a new ext4 with a journal, as mkfs.ext4 makes it, on a loop device.

Not the filesystem that happens to be there, although that saves a layer: its age, fill and mount options
decide about the result. (One without a journal, as virtual machines often have, does not reuse inodes that
were freed in the last minutes and looks through all of them at each create: creating files after the
`rm -r` of another program then seems to be twenty times as slow.) The loop device does direct I/O where it
can, so that data is not in the page cache twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testing.bench.systems import BenchError
from testing.mounts import umount

SIZE = 16 << 30
"""Of the image, which is sparse: a full run fills a fourth of it at most."""
_NEEDED = 6 << 30


@contextmanager
def space(directory: Path, *, quick: bool) -> Iterator[Path]:
    """An empty directory on the new filesystem, whose image is in `directory`. Its path is short."""
    free = shutil.disk_usage(directory).free
    needed = _NEEDED // 8 if quick else _NEEDED
    if free < needed:
        raise BenchError(f"{directory} has {free >> 20} MiB free, {needed >> 20} are needed: use --directory")
    base = Path(tempfile.mkdtemp(prefix="pub-", dir=directory))
    image, where = base / "image", base / "m"
    try:
        where.mkdir()
        with image.open("wb") as file:
            file.truncate(SIZE)
        # No lazy initialisation: the kernel's thread for it would work beside the first workloads.
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True
        )
        device = _attach(image)
        try:
            subprocess.run(["mount", "-t", "ext4", device, str(where)], check=True)
        finally:
            # It goes with its last user, that is with the mount, even if this process is killed.
            subprocess.run(["losetup", "--detach", device], check=True)
        try:
            yield where
        finally:
            umount(where)
    finally:
        shutil.rmtree(base)


def _attach(image: Path) -> str:
    problem = ""
    for mode in (["--direct-io=on"], []):
        words = ["losetup", "--find", "--show", *mode, str(image)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        problem = done.stderr.strip()
    raise BenchError(f"no loop device for {os.fspath(image)}: {problem}")
