"""`pyunionfs status`: what each mount of this program is made of and how its daemon is."""

from __future__ import annotations

import json
import os
import shlex

from unionfs import control
from unionfs.answer import Status
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.errors import MountError
from unionfs.options import resolve_mountpoint
from unionfs.separated import join_lowers


def parser() -> Parser:
    made = Parser(
        "status",
        "List the mounts of pyunionfs, or show the one at MERGED.",
        examples=[
            ("pyunionfs status", "all mounts, with their layers, memory and requests"),
            ("pyunionfs status --json merged", "one mount, for programs"),
        ],
    )
    made.add_argument("--json", action="store_true", help="a JSON list of objects, for programs")
    made.add_argument("merged", metavar="MERGED", nargs="?", help="one mountpoint")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    found = control.mounts()
    if given.merged is not None:
        wanted = resolve_mountpoint(given.merged)
        found = [status for status in found if status["mountpoint"] == wanted][-1:]
        if not found:
            raise MountError(f"{wanted} is not a mount of pyunionfs: `pyunionfs status` lists them")
    if given.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print("no mounts")
    else:
        print("\n\n".join(_text(status) for status in found))
    return 0


def _text(status: Status) -> str:
    path = printable(status["mountpoint"])
    if status["state"] == "unreachable":
        if os.geteuid() not in (0, status["user"]):
            return f"{path}\n  mounted by user {status['user']}, who alone (and root) can ask its daemon"
        pid = status["pid"]
        what = "it has died or is stuck" if pid is None else f"pid {pid} is stuck, or waits for a slow disk"
        return (
            f"{path}\n  its daemon does not answer: {what};"
            f" `pyunionfs umount --lazy {shlex.quote(path)}` frees the mountpoint"
        )
    requests: dict[str, int] = status["requests"]
    most = sorted(requests.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        ("lowers", join_lowers(status["lowers"], status["data_lowers"])),
        ("upper", status["upper"] or "none: read-only"),
        ("work", status["work"] or ""),
        ("options", ",".join(status["options"]) or "default"),
        ("transport", f"{status['transport']}, {_passthrough(status)}"),
        ("flags", " ".join(status["flags"])),
        (
            "daemon",
            f"{_who(status)}, up {_duration(status['uptime'])}, {status['memory'] / 2**20:.1f} MiB",
        ),
        ("log", status["log"]),
        ("union", ", ".join(f"{name} {count}" for name, count in sorted(status["union"].items()))),
        (
            "requests",
            ", ".join([str(sum(requests.values())), *(f"{name} {count}" for name, count in most if count)]),
        ),
    ]
    if status["state"] == "detached":
        rows.insert(0, ("state", f"not mounted in this mount namespace, {status['open_handles']} files open"))
    return "\n".join([path, *(f"  {name:<9} {printable(value)}" for name, value in rows if value)])


def _passthrough(status: Status) -> str:
    problem = status["passthrough_problem"]
    return "passthrough" if problem is None else f"no passthrough: {problem}"


def _who(status: Status) -> str:
    pid = "in another pid namespace" if status["pid"] is None else f"pid {status['pid']}"
    return pid if status["user"] == os.geteuid() else f"{pid} of user {status['user']}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
