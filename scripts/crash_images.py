#!/usr/bin/env python3
"""Kills commands that change the store of images at random moments, and looks at what they leave.

scripts/crash_images.py --kills 200

Exit status 1 if anything in the store was half, was lost, or was in the way of the next command.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testing.crash.store_rig import store_rig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many commands are killed (default: 200)")
    parser.add_argument("--seed", type=int, default=None, help="of the random choices (default: by the time)")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else time.time_ns()
    begin = time.monotonic()
    rounds = 0
    with tempfile.TemporaryDirectory(prefix="pyunionfs-crash-") as place, store_rig(Path(place), seed) as rig:
        while rig.kills < given.kills and not rig.problems:
            rig.round()
            rounds += 1
            if rounds % 20 == 0:
                print(f"{rig.kills} kills in {rounds} commands", flush=True)
        rig.finish()
    for name in sorted({each.words[0] for each in rig.commands}):
        print(f"{name}: killed {rig.killed[name]} times, ended well {rig.ended[name]} times")
    for problem in rig.problems:
        print(problem)
    print(
        f"{rig.kills} kills in {rounds} commands and {time.monotonic() - begin:.0f} s, seed {seed}:"
        f" {len(rig.problems)} problems"
    )
    return 1 if rig.problems else 0


if __name__ == "__main__":
    sys.exit(main())
