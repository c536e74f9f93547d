"""How much work each workload is. Nothing here is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The full sizes: most workloads then take 0.1 to 3 s on kernel overlayfs, and noise stays small."""

    files: int = 3000  # of the source tree
    changed_files: int = 800  # that chmod -R and append copy up, each with its fsync
    passes: int = 10  # over a tree that is warm, in one measurement
    git_files: int = 1500
    modules: int = 1000
    sources: int = 24  # of the C project
    big: int = 512 << 20
    copied: int = 256 << 20  # the file whose first change copies it up
    small: int = 64 << 20  # the file of 4 KiB, random and mapped access
    blocks: int = 40_000  # of 4 KiB
    map_passes: int = 10
    inserts: int = 200  # transactions of sqlite
    rows: int = 50_000  # in one more transaction
    opens: int = 100_000
    misses: int = 100_000
    creates: int = 5_000
    lower_renames: int = 500
    layer_names: int = 10_000
    flat: int = 100_000
    inodes: int = 200_000
    clients: int = 8
    client_turns: int = 500
    mounts: int = 3


QUICK = Sizes(
    files=600,
    changed_files=100,
    passes=5,
    git_files=200,
    modules=150,
    sources=4,
    big=64 << 20,
    copied=32 << 20,
    small=8 << 20,
    blocks=5_000,
    map_passes=3,
    inserts=20,
    rows=5_000,
    opens=5_000,
    misses=5_000,
    creates=1_000,
    lower_renames=50,
    layer_names=1_000,
    flat=5_000,
    inodes=10_000,
    clients=4,
    client_turns=100,
    mounts=1,
)
