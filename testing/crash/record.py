"""Everything that there is to know of a loss, in a directory: losses are rare, and the next run loses other
things.

Must be called while the rig's filesystem is mounted, and must change nothing in it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from testing import mounts, transports
from testing.crash.rig import Loss, Rig

LAYERS = ("lower-top", "lower-bottom", "upper", "work")


@contextlib.contextmanager
def recorded(rig: Rig, out: Path) -> Iterator[None]:
    """Whatever raises in here is recorded like a loss; the exception then says where."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            where = record(rig, [Loss("the rig failed", repr(error))], out)
            error.add_note(f"All there is to know of it: {where}")
        raise


def kill_in_load(rig: Rig, out: Path) -> str:
    """One kill more; returns what was lost by it and where everything of that is, "" where nothing was."""
    with recorded(rig, out):
        losses = rig.kill_in_load()
    if not losses:
        return ""
    heading = f"kill {len(rig.rounds)} of seed {rig.seed!r}, in full in {record(rig, losses, out)}:"
    return "\n".join([heading, *map(str, losses)])


def record(rig: Rig, losses: Sequence[Loss], out: Path) -> Path:
    """Write the losses and what led to them to a new directory in *out*, and return that.

    `losses.txt` has every loss in full; `journals` what each part of the load did in each round, with the
    times; `daemon-N.txt` what the daemons of round N logged; `layers.tar.gz` the layers as they were found,
    with what the looking mounts have changed in them.
    """
    out.mkdir(parents=True, exist_ok=True)
    where = Path(tempfile.mkdtemp(prefix="crash-", dir=out))
    (where / "losses.txt").write_text("\n\n".join([_circumstances(rig), *map(str, losses)]) + "\n")
    for each in rig.rounds:
        (where / f"daemon-{each.number}.txt").write_text("\n--- mounted again:\n".join(each.logs))
    if rig.journals.parent.exists():
        shutil.copytree(rig.journals.parent, where / "journals")
    archive = where / "layers.tar.gz"
    there = [name for name in LAYERS if (rig.base / name).exists()]
    subprocess.run(
        ["tar", "-C", rig.base, "--xattrs", "--xattrs-include=*", "--sparse", "-czf", archive, *there],
        check=True,
    )
    return where


def _circumstances(rig: Rig) -> str:
    commit = subprocess.run(
        ["git", "-C", str(mounts.REPOSITORY), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    )
    facts = {
        "seed": repr(rig.seed),
        "options": ",".join(rig.options),
        "transport": transports.chosen(),
        "rounds": f"{len(rig.rounds)}, killed after {[round(each.slept, 4) for each in rig.rounds]} s",
        "commit": commit.stdout.strip() or "unknown",
        "kernel": platform.release(),
        "load of the machine": str(os.getloadavg()),
        "layers": str(rig.base),
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())
