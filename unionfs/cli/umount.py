"""`pyunionfs umount`."""

from __future__ import annotations

from unionfs.cli.parser import Parser
from unionfs.control.unmount import leave_mount, umount
from unionfs.options.mount_options import resolve_mountpoint


def parser() -> Parser:
    made = Parser(
        "umount",
        "Unmount MERGED and return when its daemon has written everything out and is gone. `pyunionfs"
        " unmount` is the same.",
        examples=[
            ("pyunionfs umount merged", "end the mount at merged; refused while files in it are in use"),
            ("pyunionfs umount --lazy merged", "take it away now; its daemon ends with the last open file"),
        ],
    )
    made.add_argument("merged", metavar="MERGED", help="the mountpoint")
    made.add_argument(
        "-l",
        "--lazy",
        action="store_true",
        help="free the mountpoint now and return; open files go on being served",
    )
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    mountpoint = resolve_mountpoint(given.merged)
    leave_mount(mountpoint)
    umount(mountpoint, lazy=given.lazy)
    return 0
