"""Workloads on whole trees of small files: unpack, search, copy, remove, change."""

from __future__ import annotations

from pathlib import Path

from testing.bench.layers import NEEDLE, source_tree
from testing.bench.work import Measure, Run, check, run, workload


def _files(root: Path) -> int:
    return len(run(["find", str(root), "-type", "f", "-printf", "x"]))


@workload("untar", "trees", stack="small")
def _untar(bench: Run) -> None:
    """tar xf of a source tree of {files} files"""
    archive = bench.tools / f"source-{bench.sizes.files}.tar"
    if not archive.exists():
        tree = bench.tools / "source"
        source_tree(tree, bench.sizes.files)
        run(["tar", "-cf", str(archive), "-C", str(bench.tools), tree.name])
    run(["cat", str(archive)])  # in the page cache for every system
    bench.program("untar", ["tar", "-xf", str(archive)], cwd=bench.merged)
    check(_files(bench.merged / "source") == bench.sizes.files, "not all files were unpacked")


@workload(
    "search",
    "trees",
    Measure("cold find", "find with a stat of {files} files, caches dropped"),
    Measure("warm find", "the same {passes} times, in the caches"),
    Measure("warm stat", "lstat of all {files} files, {passes} times"),
    Measure("cold grep", "grep -r of {files} files, caches dropped"),
    Measure("warm grep", "the same {passes} times, in the caches"),
    stack="source",
    changes=False,
)
def _search(bench: Run) -> None:
    tree = str(bench.merged)
    again = [tree] * bench.sizes.passes
    stat = ["-printf", "%s %m\n"]
    bench.cold()
    lines = bench.program("cold find", ["find", tree, *stat]).count("\n")
    check(lines > bench.sizes.files, f"find saw {lines} names")
    warm = bench.program("warm find", ["find", *again, *stat]).count("\n")
    check(warm == lines * bench.sizes.passes, f"find saw {warm} names")
    bench.micro("warm stat", "stats", bench.merged, bench.sizes.passes)
    found = sum(number % 10 != 0 or number % 100 == 0 for number in range(0, bench.sizes.files, 100))
    bench.cold()
    hits = bench.program("cold grep", ["grep", "-r", NEEDLE, tree]).count("\n")
    check(hits == found, f"grep found {hits} of {found}")
    hits = bench.program("warm grep", ["grep", "-r", NEEDLE, *again]).count("\n")
    check(hits == found * bench.sizes.passes, f"grep found {hits}")


@workload("cp -a", "trees", stack="source")
def _copy(bench: Run) -> None:
    """cp -a of {files} lower files to another directory of the mount"""
    bench.program("cp -a", ["cp", "-a", "source", "copy"], cwd=bench.merged)
    check(_files(bench.merged / "copy") == bench.sizes.files, "not all files were copied")


@workload("rm -rf", "trees", stack="source")
def _remove(bench: Run) -> None:
    """rm -rf of a lower tree of {files} files"""
    bench.program("rm -rf", ["rm", "-rf", "source"], cwd=bench.merged)
    check(not (bench.merged / "source").exists(), "the tree is still there")


@workload("chmod -R", "trees", stack="source changed_files")
def _chmod(bench: Run) -> None:
    """chmod -R of a lower tree of {changed_files} files, which copies every one up"""
    bench.program("chmod -R", ["chmod", "-R", "o-r", "source"], cwd=bench.merged)
    left = run(["find", str(bench.merged / "source"), "-perm", "/o=r"])
    check(not left, f"not changed: {left[:100]}")


@workload("append", "trees", stack="source changed_files")
def _append(bench: Run) -> None:
    """a line appended to each of {changed_files} lower files, which copies every one up"""
    size = _bytes(bench.merged)
    bench.micro("append", "appends", bench.merged)
    grown = _bytes(bench.merged) - size
    check(grown == bench.sizes.changed_files * len("appended line\n"), f"the tree grew by {grown} bytes")


def _bytes(root: Path) -> int:
    return sum(map(int, run(["find", str(root), "-type", "f", "-printf", "%s\n"]).split()))
