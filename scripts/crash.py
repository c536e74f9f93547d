#!/usr/bin/env python3
"""Kills the daemon at random moments of a mixed load, mounts again, and looks for loss (tests/crash).

scripts/crash.py --kills 500 --jobs 2 scripts/crash.py --kills 50 --fs xfs --options index=on,metacopy=on

Exit status 1 if anything that was answered was lost, anything is half, or a mount was refused; everything
that there is to know of it is then in a directory that is named (tests/crash/record.py). Must run as root.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testing import mounts, transports
from testing.crash.record import kill_in_load
from testing.crash.rig import Rig

Results: TypeAlias = "multiprocessing.SimpleQueue[tuple[int, int, bool]]"

KILLS_PER_UNION = 10
"""Then a fresh union: with an old one there is little left to copy up."""

OPTIONS = ("", "index=on", "metacopy=on", "index=on,metacopy=on")


def main() -> int:
    options = _arguments()
    transports.choose(options.transport)
    if os.geteuid() != 0:
        print("crash.py: must run as root: it mounts filesystems", file=sys.stderr)
        return 2
    start = time.monotonic()
    results: Results = multiprocessing.SimpleQueue()
    shares = [
        options.kills // options.jobs + (number < options.kills % options.jobs)
        for number in range(options.jobs)
    ]
    jobs = [
        multiprocessing.Process(target=_job, args=(options, number, share, results))
        for number, share in enumerate(shares)
    ]
    for job in jobs:
        job.start()
    kills = operations = losses = 0
    for _ in jobs:
        done, performed, lost = results.get()
        kills, operations, losses = kills + done, operations + performed, losses + lost
    for job in jobs:
        job.join()
    print(
        f"{kills} of {options.kills} kills on {options.fs}, {operations} operations answered, "
        f"{'LOSS' if losses else 'no loss'}, {time.monotonic() - start:.0f} s"
    )
    return 1 if losses or kills < options.kills else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill the daemon at random moments and look for loss.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fs", default="ext4", choices=["ext4", "xfs", "btrfs", "tmpfs"])
    parser.add_argument("--options", help="mount options (by default several sets in turn)")
    parser.add_argument("--seed", default="crash")
    parser.add_argument(
        "--out", type=Path, default=Path("/tmp"), metavar="DIRECTORY", help="for what is known of a loss"
    )
    parser.add_argument("--transport", default="auto", choices=["auto", *transports.TRANSPORTS])
    return parser.parse_args()


def _job(options: argparse.Namespace, number: int, kills: int, results: Results) -> None:
    """Kill until the share is done or something was lost; then report it and stop, for what follows is in
    doubt.
    """
    mounts.private_mounts()
    done = operations = 0
    lost = False
    sets = itertools.cycle(OPTIONS if options.options is None else (options.options,))
    try:
        while done < kills and not lost:
            chosen = next(sets)
            with mounts.loop_fs(options.fs, 2 << 30) as base:
                seed = f"{options.seed} {number} {done}"
                rig = Rig(base, seed, options=list(filter(None, chosen.split(","))))
                for _ in range(min(KILLS_PER_UNION, kills - done)):
                    loss = kill_in_load(rig, options.out)
                    done += 1
                    if loss:
                        lost = True
                        # Said at once: other jobs go on, and may be stopped.
                        print(
                            f"--- job {number} on {options.fs}, {chosen or 'default options'}, {loss}",
                            flush=True,
                        )
                        break
                operations += rig.operations
    except Exception:
        lost = True
        print(f"--- job {number} after {done} kills:\n{traceback.format_exc()}", flush=True)
    finally:
        results.put((done, operations, lost))


if __name__ == "__main__":
    sys.exit(main())
