"""What a result depends on: the machine and the versions of what was used."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def facts(directory: Path) -> dict[str, str]:
    """Kernel, processors, memory, filesystem below `directory`, versions of the programs."""
    found = {
        "kernel": os.uname().release,
        "processor": _processor(),
        "processors": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 20} MiB",
        "filesystem": filesystem(directory),
        "python": platform.python_version(),
        "load at the start": f"{os.getloadavg()[0]:.2f}",
    }
    for name, words in (
        ("gcc", ["gcc", "--version"]),
        ("git", ["git", "--version"]),
        ("sqlite", ["sqlite3", "--version"]),
        ("revision", ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]),
    ):
        found[name] = _first_line(words)
    return found


def filesystem(directory: Path) -> str:
    """The type of the filesystem that holds this directory, as ext4."""
    return _first_line(["stat", "-f", "-c", "%T", str(directory)]).replace("ext2/ext3", "ext4")


def _first_line(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return done.stdout.partition("\n")[0].strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
