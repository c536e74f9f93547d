"""What is measured, and how: of each daemon, of all unions together, and of the machine.

A series is named by its owner and its figure, as `steady resident`. Must only look: a measurement makes no
request to a mount, which may hang. What cannot be read because a daemon has just ended is left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unionfs.control import status_socket

KIB = 1024.0


@dataclass(frozen=True)
class Figure:
    """One kind of figure."""

    name: str
    unit: str
    slack: float
    """By how much it may rise without meaning anything."""
    text: str
    place: int = 0
    """Where it stands in a table."""


_DAEMON = [
    Figure("resident", "KiB", 1024, "resident memory (VmRSS)"),
    Figure("private", "KiB", 1024, "memory that no other process has (Private_* of smaps_rollup)"),
    Figure("descriptors", "", 8, "open file descriptors"),
    Figure("threads", "", 2, "threads"),
    Figure("work", "", 4, "files and directories in work/work"),
    Figure("inodes", "", 200, "inodes that the daemon has in its table, by its status"),
    Figure("log", "bytes", 4096, "size of its log file"),
]
_ALL = [
    Figure("sockets", "", 2, "sockets in the control directory"),
    Figure("logs", "", 12, "log files in the control directory; ten of daemons that have ended may stay"),
    Figure("log bytes", "bytes", 4096, "size of all log files in the control directory"),
    Figure("mounts", "", 2, "mounts in the namespace of the run"),
    Figure("disk", "KiB", 16 * KIB, "used space of the filesystem that has all layers"),
    Figure("objects", "", 1000, "used inodes of that filesystem"),
]
_MACHINE = [
    Figure("memory", "KiB", 64 * KIB, "memory in use (MemTotal - MemAvailable)"),
    Figure("slab", "KiB", 8 * KIB, "kernel memory that cannot be reclaimed (SUnreclaim)"),
    Figure("processes", "", 16, "threads of all processes"),
    Figure("file-nr", "", 64, "open files of the kernel (/proc/sys/fs/file-nr)"),
]
FIGURES: Mapping[str, Figure] = {
    figure.name: Figure(figure.name, figure.unit, figure.slack, figure.text, place)
    for place, figure in enumerate([*_DAEMON, *_ALL, *_MACHINE])
}
OF_PROCESSES = frozenset({"resident", "private", "descriptors", "threads", "inodes"})
"""What begins anew with each daemon."""
ALL, MACHINE = "all", "machine"
"""Owners that are no daemons."""


def figure_of(series: str) -> Figure:
    """The figure of a series."""
    return FIGURES[series.partition(" ")[2]]


def of_process(pid: int) -> dict[str, float]:
    """Memory, descriptors and threads; nothing where the process ends meanwhile."""
    proc = Path(f"/proc/{pid}")
    try:
        status = _fields(proc / "status")
        rollup = _fields(proc / "smaps_rollup")
        if "VmRSS" not in status:  # a zombie has none
            return {}
        return {
            "resident": status["VmRSS"],
            "private": rollup["Private_Clean"] + rollup["Private_Dirty"],
            "descriptors": len(os.listdir(proc / "fd")),
            "threads": status["Threads"],
        }
    except (FileNotFoundError, ProcessLookupError):
        return {}


def _fields(path: Path) -> dict[str, float]:
    """The lines `Name: NUMBER [kB]` of a file in /proc."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[name] = float(words[0])
    return found


def objects_in_work(work: Path) -> int:
    """What lies in the part of work that is for temporary objects; one whiteout that is linked stays there.

    `index` is left out: it has an entry for each copied file with several names, as overlayfs wants it.
    """
    return sum(len(names) + len(files) for _, names, files in os.walk(work / "work"))


def of_directories(work: Path, log: Path) -> dict[str, float]:
    """What a daemon has on disk. It takes its log along where that has a place of its own and is empty."""
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        size = 0
    return {"work": objects_in_work(work), "log": size}


def inodes_by_mountpoint() -> dict[str, float]:
    """How many inodes each serving daemon has in its table, by its mountpoint."""
    return {
        status["mountpoint"]: status["union"]["inodes"]
        for status in status_socket.list_mounts()
        if "inodes" in status.get("union", {})
    }


def of_all(base: Path, control: Path) -> dict[str, float]:
    """Of all unions together: the control directory, the mounts, the filesystem of the layers."""
    space = os.statvfs(base)
    sockets, sizes = 0, []
    for name in os.listdir(control):
        if name.endswith(".sock"):
            sockets += 1
        else:
            try:
                sizes.append((control / name).stat().st_size)
            except FileNotFoundError:  # a daemon that ended well takes its log along
                continue
    return {
        "sockets": sockets,
        "logs": len(sizes),
        "log bytes": sum(sizes),
        "mounts": mounts_here(),
        "disk": (space.f_blocks - space.f_bfree) * space.f_frsize / KIB,
        "objects": space.f_files - space.f_ffree,
    }


def mounts_here() -> int:
    """The mounts in this process's namespace."""
    return len(Path("/proc/self/mountinfo").read_bytes().splitlines())


def of_machine() -> dict[str, float]:
    """Of the whole machine, other programs' included."""
    memory = _fields(Path("/proc/meminfo"))
    return {
        "memory": memory["MemTotal"] - memory["MemAvailable"],
        "slab": memory["SUnreclaim"],
        "processes": float(Path("/proc/loadavg").read_text().split()[3].partition("/")[2]),
        "file-nr": float(Path("/proc/sys/fs/file-nr").read_text().split()[0]),
    }
