"""`pyunionfs umount`: unmounts and waits for the daemon."""

from __future__ import annotations

from unionfs.cli.parser import Parser
from unionfs.control.unmount import leave_mount, umount
from unionfs.options.mount_options import resolve_mountpoint


def parser() -> Parser:
    made = Parser(
        "umount",
        "Unmount MERGED, and wait until its daemon has written all data and terminated. `pyunionfs unmount`"
        " is the same.",
        examples=[
            ("pyunionfs umount merged", "unmount; refused while files in it are in use"),
            ("pyunionfs umount --lazy merged", "detach now; the daemon terminates after the last close"),
        ],
    )
    made.add_argument("merged", metavar="MERGED", help="the mountpoint")
    made.add_argument(
        "-l",
        "--lazy",
        action="store_true",
        help="lazy: detach the mount now and return; open files are served until they are closed",
    )
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    mountpoint = resolve_mountpoint(given.merged)
    leave_mount(mountpoint)
    umount(mountpoint, lazy=given.lazy)
    return 0
