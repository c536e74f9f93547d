"""Random unions with a history: layers of the oracle, changed through kernel overlayfs.

Gives directories that nothing is mounted on. Must know nothing of what is then found in them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testing.oracle import layers
from testing.oracle.case import Config
from testing.oracle.operations import CHANGES_NOTHING
from testing.oracle.worker import Worker
from testing.oracle.workload import Workload
from tests.support.mounts import overlayfs, scratch

OPERATIONS = 40
"""On upper, each time that it is mounted."""

OPTIONS = {
    "plain": (Config("tmpfs", redirect=False), ["redirect_dir=off"]),
    "redirect": (Config("tmpfs", redirect=True), ["redirect_dir=on"]),
    "index": (Config("tmpfs", redirect=True, index=True), ["redirect_dir=on", "index=on"]),
    "metacopy": (Config("tmpfs", redirect=True, metacopy=True), ["redirect_dir=on", "metacopy=on"]),
    "all": (
        Config("tmpfs", redirect=True, index=True, metacopy=True),
        ["redirect_dir=on", "index=on", "metacopy=on"],
    ),
    "userxattr": (Config("tmpfs", redirect=False), ["userxattr"]),
}
"""What the layers are made for, and what overlayfs is mounted with."""


@dataclass(frozen=True)
class Stack:
    """The directories of one union, lowers top first. `empty` is a further lower with nothing in it."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path
    merged: Path
    empty: Path


@dataclass(frozen=True)
class Maker:
    """Makes one union after the other below a directory, by one worker."""

    ground: Path
    worker: Worker

    @contextmanager
    def union(self, name: str, seed: int) -> Iterator[Stack]:
        """A union for the options of this name; it is removed at the end."""
        config, options = OPTIONS[name]
        base = _made(self.ground / f"{name}-{seed}")
        try:
            yield make(base, seed, config, options, self.worker, ops=OPERATIONS)
        finally:
            shutil.rmtree(base)


@contextmanager
def maker() -> Iterator[Maker]:
    """A maker whose directory is on a tmpfs."""
    with scratch(Path("/dev/shm")) as ground:
        worker = Worker()
        try:
            yield Maker(ground, worker)
        finally:
            worker.close()


def make(base: Path, seed: int, config: Config, options: Sequence[str], worker: Worker, *, ops: int) -> Stack:
    """Make layers and change upper, and some of the lowers too, by random operations.

    *options* are what overlayfs is mounted with; `index` is left out for lowers.
    """
    case = layers.generate(seed, config)
    rng = random.Random(f"{seed} history")
    paths: list[Path] = []
    for number in range(case.lowers):
        lower = _made(base / f"lower{number}")
        layers.build([entry for entry in case.entries if entry.layer == number], lower)
        if number and layers.is_stacked(case, number):
            work = _made(base / f"work{number}")
            plain = [option for option in options if not option.startswith("index=")]
            _change(
                paths, lower, work, _made(base / f"merged{number}"), plain, worker, f"{seed} {number}", 20
            )
        paths.insert(0, lower)
    upper, work, merged = (_made(base / name) for name in ("upper", "work", "merged"))
    layers.build([entry for entry in case.entries if entry.layer == -1], upper)
    for turn in range(rng.choice([1, 1, 2])):
        _change(paths, upper, work, merged, options, worker, f"{seed} upper {turn}", ops)
    return Stack(tuple(paths), upper, work, merged, _made(base / "empty"))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _change(
    lowers: Sequence[Path],
    upper: Path,
    work: Path,
    merged: Path,
    options: Sequence[str],
    worker: Worker,
    seed: str,
    count: int,
) -> None:
    # Links of lower files part in a union without an index, and mean nothing to changes.
    workload = Workload(seed, links=True)
    with overlayfs(lowers, upper, work, merged, options=options) as where:
        worker.enter(where)
        workload.show(worker.tree())
        for _ in range(count):
            op = workload.draw()
            if op.name in CHANGES_NOTHING:
                continue
            if worker.perform(op)[0] == "ok":
                workload.show(worker.tree())
        worker.leave()
