"""What is about the daemon itself: how soon it serves, and what memory it needs."""

from __future__ import annotations

from testing.bench.systems import Place
from testing.bench.work import Measure, Run, check, run, workload


@workload(
    "mount",
    "daemon",
    Measure("mount", "from the start of the mount command to the first answer of the mount"),
    stack="small",
    changes=False,
)
def _mount(bench: Run) -> None:
    seconds = [bench.mounted.seconds]
    for number in range(bench.sizes.mounts - 1):
        place = Place(bench.place.base / f"again{number}")
        for directory in (place.base, place.upper, place.work, place.merged):
            directory.mkdir()
        with bench.system.mounted(bench.stack, place) as mounted:
            seconds.append(mounted.seconds)
    bench.add("mount", sorted(seconds)[len(seconds) // 2])


@workload(
    "memory",
    "daemon",
    Measure("memory", "growth of the daemon's own memory when all {inodes} inodes are known", "MiB"),
    stack="inodes",
    changes=False,
    daemon_only=True,
    once=True,
)
def _memory(bench: Run) -> None:
    start = bench.mounted.anonymous_memory()
    before = bench.mounted.requests()
    # The size makes find ask for the attributes, and so the kernel know the inode; a name alone would not.
    names = run(["find", str(bench.merged), "-printf", "%s\n"]).count("\n")
    check(names > bench.sizes.inodes, f"find saw {names} names")
    bench.add("memory", (bench.mounted.anonymous_memory() - start) / 2**20, before)
