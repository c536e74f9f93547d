"""Workloads on the data of one file: in sequence, in small pieces, at random, mapped, and its copy-up."""

from __future__ import annotations

from testing.bench.work import Measure, Run, check, run, workload

MIB = 1 << 20


@workload(
    "sequential",
    "data",
    Measure("sequential write", "{big} in blocks of 1 MiB to a new file"),
    Measure("cold sequential read", "{big} in blocks of 128 KiB from a lower file, caches dropped"),
    Measure("sequential read", "the same, in the caches"),
    stack="big",
    changes=False,
)
def _sequential(bench: Run) -> None:
    lower, new, size = bench.merged / "big", bench.merged / "new", bench.sizes.big
    try:
        bench.warm_memory(size)
        bench.micro("sequential write", "write", new, MIB, size, size)
        check(new.stat().st_size == size, "the file is too short")
    finally:
        new.unlink(missing_ok=True)
    bench.cold()
    bench.micro("cold sequential read", "read", lower, 128 << 10, size)
    bench.micro("sequential read", "read", lower, 128 << 10, size)


@workload(
    "blocks",
    "data",
    Measure("4 KiB writes", "{blocks} writes of 4 KiB in sequence to a file of {small}"),
    Measure("random write", "{blocks} writes of 4 KiB at random places of it"),
    Measure("mmap write", "every page of it written through a mapping, {map_passes} times"),
    Measure("random read", "{blocks} reads of 4 KiB at random places of a lower file of {small}"),
    Measure("mmap read", "every page of it read through a mapping, {map_passes} times"),
    stack="big",
    changes=False,
)
def _blocks(bench: Run) -> None:
    lower, new, size = bench.merged / "small", bench.merged / "new", bench.sizes.small
    blocks, passes = bench.sizes.blocks, bench.sizes.map_passes
    try:
        # The whole file first: what is measured then is the writing, not a growing file on one system only.
        run([str(bench.tools / "micro"), "write", str(new), str(MIB), str(size), str(size)])
        bench.micro("4 KiB writes", "write", new, 4096, blocks * 4096, size)
        bench.micro("random write", "random-write", new, blocks)
        bench.micro("mmap write", "mmap-write", new, passes)
        last = chr(ord("A") + (passes - 1) % 26)
        with new.open("rb") as file:
            pages = {file.read(4096)[:1] for _ in range(size // 4096)}
        check(pages == {last.encode()}, "the mapping's last pass is not in the file")
    finally:
        new.unlink(missing_ok=True)
    run(["cat", str(lower)])
    bench.micro("random read", "random-read", lower, blocks)
    bench.micro("mmap read", "mmap-read", lower, passes)


@workload("copy-up", "data", stack="copied")
def _copy_up(bench: Run) -> None:
    """one byte appended to a lower file of {copied}"""
    file = bench.merged / "big"
    bench.warm_memory(bench.sizes.copied)
    bench.micro("copy-up", "append-once", file)
    check(file.stat().st_size == bench.sizes.copied + 1, "the byte is not there")
