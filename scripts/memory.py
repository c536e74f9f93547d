"""How much memory the daemon needs for each inode that the kernel knows, and whether it gives it back.

    make memory                  200,000 files, as root
    make memory ARGS="--files 1000000"

Mounts a lower layer of many small directories, walks it all (every name is looked up and its attributes are
read), then makes the kernel forget what it knows. Prints the daemon's memory at the three moments and exits
with 1 when an inode costs more than 1 KiB or the memory does not come back. Nothing is estimated. It drops
the whole machine's caches, so other programs are slower for a moment.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testing.mounts import Daemon, private_mounts, pyunionfs, scratch

FILES_A_DIRECTORY = 100
LIMIT = 1024
"""Bytes that an inode may cost."""
RETAINED = 0.2
"""The part of the growth that may stay after all is forgotten: allocators keep some pages."""


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process: all, and the anonymous part."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    return int(fields["VmRSS"][0]) * 1024, int(fields["RssAnon"][0]) * 1024


def make_tree(root: Path, files: int) -> int:
    """Make a tree of this many empty files in small directories; returns the number of its objects."""
    directories = -(-files // FILES_A_DIRECTORY)
    for number in range(directories):
        directory = root / f"{number // 100:04}" / f"{number % 100:02}"
        directory.mkdir(parents=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        for name in range(min(FILES_A_DIRECTORY, files - number * FILES_A_DIRECTORY)):
            os.close(os.open(f"file-{name:04}.txt", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor))
        os.close(descriptor)
    return files + directories + -(-directories // 100)


def walk(root: Path) -> int:
    """Read the attributes of everything below `root`; returns how many objects there are."""
    count = 0
    for _, directories, files, descriptor in os.fwalk(root):
        for name in directories + files:
            os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            count += 1
    return count


def forget(daemon: Daemon) -> tuple[int, int]:
    """Make the kernel forget, and wait until the daemon's memory no longer falls."""
    smallest = memory(daemon.pid)
    quiet = 0
    while quiet < 4:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        time.sleep(0.5)
        now = memory(daemon.pid)
        quiet = 0 if now[1] < smallest[1] - 65536 else quiet + 1
        smallest = min(smallest, now, key=lambda pair: pair[1])
    return smallest


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=200_000, metavar="N", help="default: 200000")
    parser.add_argument(
        "-o", action="append", default=[], metavar="OPTION", help="a mount option to measure with"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("memory: needs root, to drop the kernel's caches", file=sys.stderr)
        return 2
    private_mounts()
    with scratch() as space:
        lower, upper, work, merged = (space / name for name in ("lower", "upper", "work", "merged"))
        for directory in (lower, upper, work, merged):
            directory.mkdir()
        objects = make_tree(lower, arguments.files)
        with pyunionfs([lower], upper, work, merged, options=arguments.o) as daemon:
            os.listdir(merged)
            start = memory(daemon.pid)
            began = time.monotonic()
            count = walk(merged)
            seconds = time.monotonic() - began
            if count != objects:
                print(f"memory: the walk saw {count} objects of {objects}", file=sys.stderr)
                return 1
            walked = memory(daemon.pid)
            after = forget(daemon)
    growth = walked[1] - start[1]
    each = growth / objects
    kept = max(0, after[1] - start[1])
    print(f"{'':28}{'resident':>12}{'anonymous':>12}   (KiB)")
    for what, (resident, anonymous) in (
        ("start", start),
        (f"{objects:,} objects known", walked),
        ("after they were forgotten", after),
    ):
        print(f"{what:28}{resident >> 10:>12,}{anonymous >> 10:>12,}")
    print(f"bytes an inode: {each:.0f} (limit {LIMIT}); the walk took {seconds:.1f} s")
    print(f"kept after forgetting: {kept >> 10:,} KiB of {growth >> 10:,} KiB")
    return int(each > LIMIT or kept > RETAINED * growth)


if __name__ == "__main__":
    sys.exit(main())
