"""The command line of a soak run.

    make soak HOURS=8                  as root; the report is in build/soak
    make soak HOURS=1 ARGS="--clients 8 --pace 10 --shared"
    python -m testing.soak --report build/soak

Exit status 0 where no figure grows and nothing was wrong. SIGINT and SIGTERM end a run early, with the report
of what there is. Must run as root: it mounts filesystems, in a mount namespace of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from testing import mounts
from testing.bench import machine
from testing.soak import report, samples
from testing.soak.conductor import Conductor, Settings
from testing.soak.union import KINDS

SAMPLES = "samples.jsonl"


def main() -> int:
    options = _arguments()
    if options.report is not None:
        run = samples.read(options.report / SAMPLES)
        print(report.write(run, options.report))
        return 0 if report.passed(run) else 1
    if os.geteuid() != 0:
        print("soak: must run as root: it mounts filesystems", file=sys.stderr)
        return 2
    # In a session of its own, so that Ctrl-C does not reach daemons, clients and their programs, but only
    # this process, which passes it on.
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = _run(options)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m testing.soak", description="A mixed load for hours, and whether anything grows."
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=6, help="processes that work at once (default: 6)")
    parser.add_argument("--interval", type=float, default=60.0, metavar="SECONDS", help="between two samples")
    parser.add_argument(
        "--pace", type=float, default=20.0, metavar="SECONDS", help="between two unmounts, kills or mounts"
    )
    parser.add_argument("--seed", default="soak")
    parser.add_argument("--fs", default="ext4", choices=["ext4", "xfs", "btrfs", "tmpfs"])
    parser.add_argument("--directory", type=Path, help="where the image of the layers' filesystem lies")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="for the report")
    parser.add_argument(
        "--shared", action="store_true", help="others use the machine, so that its figures decide nothing"
    )
    parser.add_argument(
        "--watch", action="append", default=[], metavar="NAME=PID", help="one more process to be measured"
    )
    parser.add_argument("--report", type=Path, metavar="DIRECTORY", help="only write the report of a run")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
    """The run itself, in its own session and mount namespace."""
    front = os.getppid()
    os.setsid()
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    mounts.private_mounts()
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    watched = {name: int(pid) for name, _, pid in (each.partition("=") for each in options.watch)}
    settings = Settings(
        options.hours * 3600,
        options.clients,
        options.interval,
        options.pace,
        options.seed,
        options.fs,
        options.directory,
        out,
        watched,
    )
    about = {
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "asked for": f"{options.hours:g} hours",
        "clients": options.clients,
        "seed": options.seed,
        "filesystem of the layers": options.fs,
        "between samples": f"{options.interval:g} s",
        "between disturbances": f"{options.pace:g} s on the average",
        "shared": options.shared,
        "restarted": [kind.name for kind in KINDS if not kind.steady],
        **machine.facts(Path("/")),
    }
    del about["filesystem"]
    path = out / SAMPLES
    path.unlink(missing_ok=True)
    writer = samples.Writer(path, about)
    print(f"soak: {settings.seconds / 60:.1f} minutes; samples and report in {out}", flush=True)
    # Without the process in front nothing would end a run.
    conductor = Conductor(settings, writer, lambda: asked or os.getppid() != front)
    conductor.run()
    run = samples.read(path)
    print(report.write(run, out))
    return 0 if report.passed(run) else 1


if __name__ == "__main__":
    sys.exit(main())
