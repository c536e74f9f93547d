"""Workloads on names: opens, misses, create, unlink, rename; many layers; one huge directory."""

from __future__ import annotations

import os
from collections.abc import Callable

from testing.bench.work import Measure, Run, check, run, workload


@workload("opens", "names", stack="small", changes=False)
def _opens(bench: Run) -> None:
    """{opens} times open and close of a lower file"""
    bench.micro("opens", "opens", bench.merged / "d", "file", 100, bench.sizes.opens)


@workload("misses", "names", stack="small", changes=False)
def _misses(bench: Run) -> None:
    """lstat of {misses} names that are not there"""
    bench.micro("misses", "misses", bench.merged / "d", "missing", bench.sizes.misses)


@workload(
    "create and unlink",
    "names",
    Measure("create", "{creates} new files in a merged directory"),
    Measure("rename", "rename of each of them"),
    Measure("unlink", "unlink of each of them"),
    stack="small",
)
def _create(bench: Run) -> None:
    directory, count = bench.merged / "d", bench.sizes.creates
    before = len(os.listdir(directory))
    bench.micro("create", "creates", directory, "new", count)
    bench.micro("rename", "renames", directory, "new", count, "renamed")
    names = os.listdir(directory)
    check(sum(name.startswith("renamed") for name in names) == count, "names are missing")
    bench.micro("unlink", "unlinks", directory, "renamed", count)
    check(len(os.listdir(directory)) == before, "names are left")


@workload("rename lower", "names", stack="layers 2")
def _rename_lower(bench: Run) -> None:
    """rename of {lower_renames} empty lower files, which copies each up and leaves a whiteout"""
    directory, count = bench.merged / "d", bench.sizes.lower_renames
    bench.micro("rename lower", "renames", directory, "name", count, "renamed")
    names = os.listdir(directory)
    check(len(names) == bench.sizes.layer_names, f"{len(names)} names")
    check(sum(name.startswith("renamed") for name in names) == count, "names are missing")


def _layers(count: int) -> Callable[[Run], None]:
    def measure(bench: Run) -> None:
        directory, names = bench.merged / "d", bench.sizes.layer_names
        bench.micro(f"lookups {count} layers", "lookups", directory, "name", names)
        bench.micro(f"misses {count} layers", "misses", directory, "missing", names)
        check(len(os.listdir(directory)) == names, "names are missing")

    return measure


for _count in (2, 20, 100):
    workload(
        f"{_count} layers",
        "layers",
        Measure(
            f"lookups {_count} layers",
            f"first lstat of {{layer_names}} files of a directory that {_count} layers merge",
        ),
        Measure(f"misses {_count} layers", "lstat of {layer_names} names that are not there"),
        stack=f"layers {_count}",
        changes=False,
    )(_layers(_count))


@workload(
    "flat",
    "names",
    Measure("list huge directory", "first listing of a directory with {flat} files"),
    Measure("stat huge directory", "find with a stat of each of them"),
    stack="flat",
    changes=False,
)
def _flat(bench: Run) -> None:
    directory = bench.merged / "flat"
    bench.micro("list huge directory", "list", directory, bench.sizes.flat)
    words = ["find", str(directory), "-mindepth", "1", "-printf", "%s %m\n"]
    lines = bench.program("stat huge directory", words).count("\n")
    check(lines == bench.sizes.flat, f"find saw {lines} names")


@workload("clients", "names", stack="small", changes=True)
def _clients(bench: Run) -> None:
    """{clients} clients at once, {client_turns} turns each: a miss, a read, a file written and removed"""
    directory = bench.merged / "d"
    clients, turns = bench.sizes.clients, bench.sizes.client_turns
    before = run(["ls", str(directory)])
    bench.micro("clients", "clients", directory, "file", 100, clients, turns)
    check(run(["ls", str(directory)]) == before, "files are left")
