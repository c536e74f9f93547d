"""What a mount costs: its time, and the memory of many that are idle, beside fuse-overlayfs.

`python -m testing.bench.many_mounts [--mounts N] [--rounds N]`: prints one table, changes no file. Needs
root and fuse-overlayfs. Private memory is what would be free without the process (Private_* of smaps_rollup);
what workers share with the supervisor counts once, as the supervisor's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testing.mounts import environment

LAYERS = ("lower", "upper", "work", "merged")
PYUNIONFS = str(Path(sys.executable).with_name("pyunionfs"))
Mount = Callable[[Path], list[str]]

PROGRAMS: dict[str, Mount] = {
    "pyunionfs": lambda union: [PYUNIONFS, "mount", *(str(union / name) for name in LAYERS)],
    "pyunionfs, supervise=off": lambda union: [
        *(PYUNIONFS, "mount", "-o", "supervise=off"),
        *(str(union / name) for name in LAYERS),
    ],
    "fuse-overlayfs": lambda union: [
        *("fuse-overlayfs", "-o"),
        f"lowerdir={union}/lower,upperdir={union}/upper,workdir={union}/work",
        str(union / "merged"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mounts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"| program | ready, first mount (ms) | ready, next ones (ms) | KiB each | MiB of {given.mounts} |")
    print("|---|---|---|---|---|")
    for name, mount in PROGRAMS.items():
        first = statistics.median(first_mount(mount) for _ in range(given.rounds))
        times, each, total = many(mount, given.mounts)
        print(f"| {name} | {first:.0f} | {statistics.median(times):.0f} | {each} | {total / 1024:.0f} |")


def first_mount(mount: Mount) -> float:
    """Milliseconds until a mount serves that finds no supervisor."""
    with unions(1) as made:
        os.environ["LC_PYUNIONFS_BENCH"] = str(time.monotonic_ns())  # alike is no supervisor that runs
        return timed(mount(made[0]))


def many(mount: Mount, count: int) -> tuple[list[float], int, int]:
    """Milliseconds of each mount but the first; KiB of private memory of one, and of all together."""
    with unions(count) as made:
        times = [timed(mount(union)) for union in made]
        memory = [private_memory(pid) for pid in daemons(made[0].parent)]
        return times[1:], int(statistics.median(memory)), sum(memory)


def timed(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(words, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def daemons(base: Path) -> set[int]:
    """Processes that serve unions below *base*, and the supervisor that has forked them."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.fsencode(base) in entry.joinpath("cmdline").read_bytes():
                parent = entry.joinpath("stat").read_text().rpartition(")")[2].split()[1]
                found.add(int(entry.name))
                if entry.parent.joinpath(parent, "cmdline").read_bytes().startswith(b"pyunionfs: supervisor"):
                    found.add(int(parent))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found


def private_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@contextmanager
def unions(count: int) -> Iterator[list[Path]]:
    """Directories for so many unions; what is mounted there is unmounted at the end."""
    with tempfile.TemporaryDirectory(prefix="pyunionfs-bench-") as base:
        made = [Path(base) / str(number) for number in range(count)]
        for union in made:
            for name in LAYERS:
                (union / name).mkdir(parents=True)
        try:
            yield made
        finally:
            for union in made:
                if os.path.ismount(union / "merged"):
                    subprocess.run(["umount", union / "merged"], check=True)


if __name__ == "__main__":
    main()
