#!/usr/bin/env python3
"""Random histories on pyunionfs and on kernel overlayfs, compared step by step (the oracle of
testing/oracle).

scripts/fuzz.py --seeds 0-999 --ops 150 --fs ext4 --redirect on --jobs 2
scripts/fuzz.py --own --seeds 0-299 --fs xfs --transport pyfuse3
scripts/fuzz.py --replay /tmp/finding-17.case

With --own an ordinary user (uid 1000) mounts: pyunionfs through fusermount3, overlayfs in a user namespace.
Options that are not given are drawn from the seed. Exit status 1 if there was any difference; every
difference is printed with a case file that replays it, shortened as far as --minimise seconds go. Must run
as root, and leaves nothing behind but the case files.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import multiprocessing
import os
import queue
import random
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testing import mounts, transports
from testing.oracle import sides
from testing.oracle.campaign import Campaign, Finding, campaign
from testing.oracle.case import Case, Config

Results: TypeAlias = "multiprocessing.Queue[Result]"

MODES: dict[str, list[str]] = {
    "default": [],
    "passthrough=off": ["passthrough=off"],
    "coherent": ["coherent"],
}


@dataclass(frozen=True)
class Result:
    """What a job has to say about one seed. An empty report: no difference."""

    seed: int
    config: str
    report: str = ""
    cause: tuple[str, ...] = ()


def main() -> int:
    options = _arguments()
    transports.choose(options.transport)
    if os.geteuid() != 0:
        print("fuzz.py: must run as root: it mounts overlayfs and makes device nodes", file=sys.stderr)
        return 2
    if options.replay:
        return _replay(options)
    seeds = list(range(options.seeds[0], options.seeds[1] + 1))
    start = time.monotonic()
    results: Results = multiprocessing.Queue()
    jobs = [
        multiprocessing.Process(target=_job, args=(options, seeds[number :: options.jobs], results))
        for number in range(options.jobs)
    ]
    for job in jobs:
        job.start()
    causes: collections.Counter[tuple[str, ...]] = collections.Counter()
    tried = 0
    for result in _results(results, jobs, len(seeds)):
        tried += 1
        if result.report:
            causes[result.cause] += 1
            print(f"--- {result.report}", flush=True)
        elif options.verbose:
            print(f"seed {result.seed} on {result.config}: no difference", flush=True)
    for job in jobs:
        job.join()
    different = sum(causes.values())
    print(
        f"seeds {seeds[0]}-{seeds[-1]} on {options.fs}, {options.subject} against {options.reference}: "
        f"{tried} of {len(seeds)} tried, {options.ops} operations each, {different} with a difference, "
        f"{time.monotonic() - start:.0f} s"
    )
    for cause, count in causes.most_common():
        print(f"  {count:4}  {' | '.join(cause)}")
    return 0 if tried == len(seeds) and not different else 1


def _results(results: Results, jobs: Sequence[multiprocessing.Process], count: int) -> Iterator[Result]:
    """Results as they come; ends early if all jobs are gone before."""
    for _ in range(count):
        while True:
            try:
                yield results.get(timeout=1)
                break
            except queue.Empty:
                if not any(job.is_alive() for job in jobs) and results.empty():
                    return


def _arguments() -> argparse.Namespace:
    def seeds(text: str) -> tuple[int, int]:
        first, _, last = text.partition("-")
        return int(first), int(last or first)

    parser = argparse.ArgumentParser(
        description="Compare pyunionfs with kernel overlayfs by random operations."
    )
    parser.add_argument("--seeds", type=seeds, default=(0, 99), metavar="A-B")
    parser.add_argument("--ops", type=int, default=150, help="operations a seed")
    parser.add_argument(
        "--fs", default="ext4", choices=["ext4", "xfs", "btrfs", "tmpfs", "here"], help="of upper"
    )
    for name in ("redirect", "index", "metacopy", "data", "user"):
        parser.add_argument(f"--{name}", choices=["on", "off"], help="drawn from the seed if not given")
    parser.add_argument("--own", action="store_true", help="a union that an ordinary user mounts")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minimise", type=float, default=60, metavar="SECONDS", help="for each difference")
    parser.add_argument("--replay", type=Path, metavar="CASE", help="try this case file once")
    parser.add_argument("--out", type=Path, default=Path("/tmp"), metavar="DIRECTORY", help="for case files")
    parser.add_argument("--reference", default="kernel", choices=["kernel", "pyunionfs", "fuse-overlayfs"])
    parser.add_argument("--subject", default="pyunionfs", choices=["kernel", "pyunionfs", "fuse-overlayfs"])
    parser.add_argument("--mount-options", default="", metavar="OPTS", help="more options for pyunionfs")
    parser.add_argument(
        "--mode",
        default="default",
        choices=[*MODES, "drawn"],
        help="of data, for pyunionfs; or from the seed",
    )
    parser.add_argument("--verbose", action="store_true", help="a line for every seed")
    parser.add_argument("--transport", default="auto", choices=["auto", *transports.TRANSPORTS])
    return parser.parse_args()


def _config(options: argparse.Namespace, seed: int) -> Config:
    rng = random.Random(f"{seed} options")
    drawn = {
        name: rng.random() < share for name, share in (("redirect", 0.6), ("index", 0.4), ("metacopy", 0.4))
    }
    drawn["data"] = False
    for name in drawn:
        given = getattr(options, name)
        if given is not None:
            drawn[name] = given == "on"
    if drawn["data"]:
        # Without these overlayfs refuses metacopies; an explicit "off" stays, and is refused.
        for name in ("redirect", "metacopy"):
            drawn[name] = getattr(options, name) != "off"
    if not drawn["redirect"] and options.metacopy is None:
        drawn["metacopy"] = False
    if drawn["metacopy"] and options.redirect is None:
        drawn["redirect"] = True
    if drawn["metacopy"] and options.data is None:
        drawn["data"] = rng.random() < 0.4
    drawn["user"] = rng.random() < 0.3 if options.user is None else options.user == "on"
    if options.own:
        return Config(options.fs, redirect=False, own=True)
    return Config(options.fs, **drawn)


def _mode(options: argparse.Namespace, seed: int) -> list[str]:
    """The mount options that choose this seed's mode of data."""
    drawn = options.mode == "drawn"
    return MODES[random.Random(f"{seed} mode").choice(list(MODES)) if drawn else options.mode]


def _side(options: argparse.Namespace, name: str, seed: int) -> sides.Side:
    if name != "pyunionfs":
        return sides.by_name(name)
    more = [option for option in options.mount_options.split(",") if option]
    return sides.PyUnionFS([*_mode(options, seed), *more])


def _campaign_for(
    options: argparse.Namespace, fs: str, *, own: bool
) -> contextlib.AbstractContextManager[Campaign]:
    chosen = [_side(options, name, options.seeds[0]) for name in (options.reference, options.subject)]
    return campaign(fs, *chosen, ops=options.ops, own=own)


def _job(options: argparse.Namespace, seeds: list[int], results: Results) -> None:
    mounts.private_mounts()
    with _campaign_for(options, options.fs, own=options.own) as field:
        for seed in seeds:
            config = _config(options, seed)
            field.subject = _side(options, options.subject, seed)
            try:
                finding = field.try_seed(seed, config)
                if finding is None:
                    results.put(Result(seed, str(config)))
                else:
                    results.put(_described(field, finding, options))
            except Exception:
                # The oracle's own fault, or a machine that is full: it counts, and the other seeds go on.
                report = f"seed {seed} on {config}: the oracle failed\n{traceback.format_exc()}"
                results.put(Result(seed, str(config), report, ("oracle",)))


def _described(field: Campaign, finding: Finding, options: argparse.Namespace) -> Result:
    if options.minimise:
        finding = field.minimised(finding, seconds=options.minimise)
    case = finding.case
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"pyunionfs-{options.fs}-{case.seed}.case"
    case.save(path)
    more = ",".join([*_mode(options, case.seed), *filter(None, [options.mount_options])])
    words = f"--transport {options.transport} --mount-options '{more}'"
    report = f"{finding.report()}\n  replay: scripts/fuzz.py {words} --replay {path}"
    return Result(case.seed, str(case.config), report, finding.difference.cause)


def _replay(options: argparse.Namespace) -> int:
    mounts.private_mounts()
    case = Case.load(options.replay)
    with _campaign_for(options, case.config.fs, own=case.config.own) as field:
        finding = field.try_case(case)
    print("no difference" if finding is None else finding.report())
    return 0 if finding is None else 1


if __name__ == "__main__":
    sys.exit(main())
