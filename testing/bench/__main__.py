"""make bench: the same work on native ext4, kernel overlayfs, fuse-overlayfs and pyunionfs in turn.

    make bench                                         everything; writes docs/benchmark.{json,md,svg}
    make bench ARGS="--quick"                          a look, in some minutes
    make bench ARGS="--only opens,git --systems overlayfs,direct --rounds 1"
    make bench ARGS="--system coherent=transport=direct,coherent"
    make bench ARGS="--before ../other-checkout"       as "before", beside this one as "direct"
    make bench ARGS="--draw"                           the page and the chart again, from the JSON

All layers are on one new ext4 filesystem, in an image in --directory. Must run as root; drops the whole
machine's caches between measurements. What is mounted is not seen by other processes.
"""

from __future__ import annotations

import argparse
import compileall
import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

from testing.bench import machine, text
from testing.bench.results import Report, read_report
from testing.bench.rounds import Bench
from testing.bench.sizes import QUICK, Sizes
from testing.bench.space import space
from testing.bench.systems import BenchError, System, all_systems
from testing.bench.work import Workload
from testing.bench.workloads import all_workloads
from testing.mounts import REPOSITORY, private_mounts

DOCS = REPOSITORY / "docs"


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if arguments.draw:
            return _write(read_report(arguments.json or DOCS / "benchmark.json"), arguments)
        workloads = _workloads(arguments.only)
        systems, left_out = _systems(arguments.systems, arguments.system, arguments.before)
    except (BenchError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        for work in workloads:
            print(f"{work.group:10}{work.name:20}{', '.join(measure.name for measure in work.measures)}")
        return 0
    if os.geteuid() != 0:
        print("bench: must run as root: it mounts overlayfs and drops caches", file=sys.stderr)
        return 2
    for name, why in left_out.items():
        print(f"bench: {name} is left out: {why}", file=sys.stderr)
    # What ends the run must unwind it: mounts and directories go with their contexts.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # A mount starts from compiled modules, as an installed one does.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for checkout in filter(None, (REPOSITORY, arguments.before)):
        compileall.compile_dir(checkout / "unionfs", quiet=1)
    private_mounts()
    try:
        report = _measured(arguments, workloads, systems, left_out)
    except KeyboardInterrupt:
        return 130
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return _write(report, arguments)


def _measured(
    arguments: argparse.Namespace,
    workloads: list[Workload],
    systems: list[System],
    left_out: dict[str, str],
) -> Report:
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    with space(arguments.directory, quick=arguments.quick) as base:
        report = Report(
            machine=machine.facts(base),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            rounds=rounds,
            quick=arguments.quick,
            systems={system.name: system.what for system in systems},
            left_out=left_out,
        )
        sizes = QUICK if arguments.quick else Sizes()
        bench = Bench(base, sizes, systems, workloads, rounds, lambda line: print(line, flush=True))
        report.rows = bench.measure()
    return report


def _write(report: Report, arguments: argparse.Namespace) -> int:
    """The results to where they were asked for. Only a full run changes docs/ by itself."""
    print(text.terminal(report), end="")
    full = not (arguments.quick or arguments.only or arguments.systems or arguments.before)
    targets = {"json": arguments.json, "chart": arguments.chart, "table": arguments.table}
    if full and not any(targets.values()):
        targets = {
            kind: DOCS / f"benchmark.{suffix}"
            for kind, suffix in (("json", "json"), ("chart", "svg"), ("table", "md"))
        }
    if targets["json"] and not arguments.draw:
        targets["json"].write_text(report.to_json())
    if targets["chart"]:
        from testing.bench import chart

        try:
            chart.draw(report, targets["chart"])
        except ImportError as error:
            print(f"bench: no chart: {error}; `make bench` installs what it needs", file=sys.stderr)
            return 1
    if targets["table"]:
        drawn = os.path.relpath(targets["chart"], targets["table"].parent) if targets["chart"] else None
        targets["table"].write_text(text.markdown(report, drawn))
    return 0


def _workloads(only: list[str]) -> list[Workload]:
    chosen = [work for work in all_workloads() if not only or work.wanted(only)]
    if not chosen:
        raise BenchError(f"--only {','.join(only)}: no such workload; --list shows them")
    return chosen


def _systems(names: list[str], extra: list[str], before: Path | None) -> tuple[list[System], dict[str, str]]:
    """Those that can be measured here, and why the others cannot."""
    systems = all_systems(extra, before)
    unknown = set(names) - {system.name for system in systems}
    if unknown:
        raise BenchError(
            f"--systems: no system {', '.join(sorted(unknown))}; there are:"
            f" {', '.join(system.name for system in systems)}"
        )
    wanted = [system for system in systems if not names or system.name in names]
    left_out = {system.name: system.unavailable for system in wanted if system.unavailable}
    chosen = [system for system in wanted if system.name not in left_out]
    if not chosen:
        raise BenchError("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return chosen, left_out


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument(
        "--only", type=_words, default=[], metavar="NAMES", help="workloads, measures or groups"
    )
    parser.add_argument("--systems", type=_words, default=[], metavar="NAMES", help="default: all")
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=OPTIONS",
        help="one more pyunionfs (repeatable)",
    )
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="one more pyunionfs: the one of another checkout"
    )
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="default: 3, or 1 with --quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the results, for programs")
    parser.add_argument("--table", type=Path, metavar="FILE", help="the page as in docs/benchmark.md")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="the bar chart, SVG")
    parser.add_argument("--draw", action="store_true", help="measure nothing: page and chart from --json")
    parser.add_argument("--list", action="store_true", help="only name the workloads and their measures")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/var/tmp"),
        help="where the layers are made (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
