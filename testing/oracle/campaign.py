"""Tries many seeds on one filesystem, and makes something readable of what was found.

The door for both the tests and `scripts/fuzz.py`. Must leave no mount, loop device or scratch directory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from testing import mounts
from testing.oracle import layers
from testing.oracle.case import Case, Config, Entry
from testing.oracle.compare import run
from testing.oracle.difference import Difference
from testing.oracle.minimise import minimise
from testing.oracle.places import HERE, Places, own_places
from testing.oracle.sides import Side
from testing.oracle.stage import Ground

SIZE = 2 << 30


@dataclass(frozen=True)
class Finding:
    """A case that showed a difference."""

    case: Case
    difference: Difference

    def report(self) -> str:
        """All that one needs to see what happened."""
        case = self.case
        lines = [f"seed {case.seed} on {case.config}: {self.difference}"]
        for number, stack in enumerate(case.stacks):
            name = "upper" if number == case.lowers else f"layer {number}"
            lines.append(f"  {name}{' (on another filesystem)' if stack.elsewhere else ''}:")
            for entry in case.entries:
                if entry.layer == number or (entry.layer == -1 and number == case.lowers):
                    lines.append(f"    {_described(entry)}")
            if stack.ops:
                lines.append(
                    f"    changed through overlayfs with redirect_dir={['off', 'on'][stack.redirect]}:"
                )
                lines += [f"      {op}" for op in stack.ops]
        data = [entry for entry in case.entries if entry.layer < -1]
        if data:
            lines.append("  data-only layers:")
            lines += [f"    {entry.layer}: {_described(entry)}" for entry in data]
        lines.append("  operations:")
        lines += [f"    {op}" for op in case.ops]
        return "\n".join(lines)


def _described(entry: Entry) -> str:
    words = [entry.kind, repr(entry.path), f"{entry.mode:04o}", f"{entry.uid}:{entry.gid}"]
    if entry.kind == "file":
        words.append(f"{entry.size} bytes")
    if entry.target:
        words.append(f"-> {entry.target!r}")
    if entry.xattrs:
        words.append(repr(dict(entry.xattrs)))
    return " ".join(words)


class Campaign:
    """A ground to try cases on."""

    def __init__(self, reference: Side, subject: Side, ground: Ground, *, ops: int) -> None:
        self.reference = reference
        self.subject = subject
        self.ground = ground
        self.ops = ops

    def try_seed(self, seed: int, config: Config) -> Finding | None:
        """Make the seed's case and try it."""
        return self.try_case(layers.generate(seed, config))

    def try_case(self, case: Case, *, until: str = "swap") -> Finding | None:
        """Try a case in directories of its own."""
        with self._directories() as ground:
            case, difference = run(case, self.reference, self.subject, ground, ops=self.ops, until=until)
        return None if difference is None else Finding(case, difference)

    def minimised(self, finding: Finding, *, seconds: float) -> Finding:
        """The same finding, as short as possible."""

        until = "swap" if finding.difference.phase == "mount" else finding.difference.phase.partition(":")[0]

        def trial(case: Case) -> Difference | None:
            found = self.try_case(case, until=until)
            return None if found is None else found.difference

        case, difference = minimise(finding.case, finding.difference, trial, seconds=seconds)
        return Finding(replace(case, notes=tuple(str(difference).splitlines())), difference)

    @contextmanager
    def _directories(self) -> Iterator[Ground]:
        paths = [Path(tempfile.mkdtemp(dir=fs)) for fs in (self.ground.upper_fs, self.ground.other_fs)]
        for path in paths:
            path.chmod(0o755)
        try:
            yield replace(self.ground, upper_fs=paths[0], other_fs=paths[1])
        finally:
            for path in paths:
                shutil.rmtree(path)


@contextmanager
def campaign(fs: str, reference: Side, subject: Side, *, ops: int, own: bool = False) -> Iterator[Campaign]:
    """A campaign with upper on this kind of filesystem (`here`: on that of the temporary directory).

    *own*: of cases whose union is an ordinary user's own.
    """
    # Images in memory where there is some: a copy-up waits for its fsync.
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    images = memory if fs != "tmpfs" else None
    # One that has a UUID, unlike many a virtual machine's root: without redirects, metacopies and index the
    # kernel follows no origin to one without (ovl_lower_uuid_ok()), and takes a new hard link, which it looks
    # up anew (ovl_instantiate()), for another file than the name that it was made of (docs/semantics.md).
    with mounts.loop_fs("ext4", SIZE // 4, directory=memory) as other:
        if fs == "here":
            with mounts.scratch() as upper, _places(own, upper, other) as places:
                yield Campaign(reference, subject, Ground(upper, other, places), ops=ops)
        else:
            with mounts.loop_fs(fs, SIZE, directory=images) as upper, _places(own, upper, other) as places:
                yield Campaign(reference, subject, Ground(upper, other, places), ops=ops)


def _places(own: bool, *needed: Path) -> AbstractContextManager[Places]:
    return own_places(needed) if own else nullcontext(HERE)
