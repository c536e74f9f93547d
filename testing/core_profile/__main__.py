"""What each operation of the union costs by itself: microseconds and system calls, without a mount.

    make profile                           every operation, as root
    make profile ARGS="unlink create"      those whose names contain a word

Drives `Union` in this process over two lowers made of Python's own library and an upper on the same
filesystem: an ext4 in memory, for a disk in use makes the same operation cost anything, unless `--directory`
names a place (for what fsync really costs). The times are the best of several rounds, for other programs only
ever make one slower: by the clock, and of the processor alone. The system calls are what strace saw of one
further round. Nothing here is a test: there is no right answer to print.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testing.core_profile import files, names
from testing.core_profile.rig import SCENARIOS, Rig, make_layers
from testing.mounts import REPOSITORY, loop_fs, private_mounts

__all__ = ["files", "names"]  # they register the operations

ROUNDS = 5
IMAGE = 512 << 20
MARK = "/@profile/"


def one_round(base: Path, name: str, options: dict[str, Any]) -> tuple[float, float, int]:
    """Microseconds a call by the clock and of processor time, and how many calls."""
    rig = Rig(base, options)
    try:
        calls = SCENARIOS[name](rig)
        # For strace: a name that no layer has.
        os.access(MARK + "begin", os.F_OK)
        begin, cpu = time.perf_counter_ns(), time.thread_time_ns()
        for function, arguments in calls:
            function(*arguments)
        cpu, end = time.thread_time_ns() - cpu, time.perf_counter_ns()
        os.access(MARK + "end", os.F_OK)
    finally:
        rig.close()
    return (end - begin) / len(calls) / 1000, cpu / len(calls) / 1000, len(calls)


def system_calls(base: Path, name: str, options: dict[str, Any]) -> Counter[str]:
    """System calls of one round, per call of the operation."""
    trace = base / "trace"
    command = ["strace", "-f", "-qq", "-o", str(trace), sys.executable, "-m", __package__ or ""]
    command += ["--base", str(base), "--options", json.dumps(options), "--trace", name]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    counts: Counter[str] = Counter()
    counting = False
    for line in trace.read_text(errors="replace").splitlines():
        if MARK in line:
            counting = MARK + "begin" in line
        elif counting and (match := re.match(r"\d+ +(\w+)\(", line)):
            counts[match[1]] += 1
    trace.unlink()
    return counts


def brief(counts: Counter[str], calls: int) -> str:
    shown = []
    for name, count in counts.most_common():
        each = count / calls
        if each >= 0.05:
            shown.append(name if abs(each - 1) < 0.03 else f"{name}*{each:.3g}")
    return f"{sum(counts.values()) / calls:5.2f}  {' '.join(shown)}"


@contextlib.contextmanager
def layers(directory: str | None) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        if directory is None:
            private_mounts()
            directory = str(stack.enter_context(loop_fs("ext4", IMAGE, directory=Path("/dev/shm"))))
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="profile-", dir=directory)))
        make_layers(base)
        yield base


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only operations whose names contain one of these")
    parser.add_argument("--directory", help="where to make the layers (default: an ext4 in memory)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--options", type=json.loads, default={}, help="of UnionConfig, as JSON")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trace", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.umask(0)
    if arguments.trace:
        one_round(arguments.base, arguments.trace, arguments.options)
        return 0
    if os.geteuid() != 0:
        print("core_profile: needs root, for trusted xattrs and whiteouts", file=sys.stderr)
        return 2
    strace = shutil.which("strace") is not None
    figures = {}
    with layers(arguments.directory) as base:
        for name in SCENARIOS:
            if arguments.words and not any(word in name for word in arguments.words):
                continue
            rounds = [one_round(base, name, arguments.options) for _ in range(arguments.rounds)]
            clock, cpu, calls = min(row[0] for row in rounds), min(row[1] for row in rounds), rounds[0][2]
            counts = system_calls(base, name, arguments.options) if strace else Counter()
            figures[name] = {
                "us": round(clock, 2),
                "cpu": round(cpu, 2),
                "calls": sum(counts.values()) / calls,
            }
            print(f"{name:45}{clock:9.1f} us {cpu:9.1f} cpu  {brief(counts, calls)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
