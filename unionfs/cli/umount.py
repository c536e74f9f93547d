"""`pyunionfs umount`."""

from __future__ import annotations

from unionfs.cli.parser import Parser
from unionfs.unmount import umount


def run(words: list[str]) -> int:
    parser = Parser(
        "umount", "Unmount MERGED and return when its daemon has written everything out and is gone."
    )
    parser.add_argument("merged", metavar="MERGED")
    parser.add_argument(
        "-l",
        "--lazy",
        action="store_true",
        help="free the mountpoint now and return; open files go on being served",
    )
    given = parser.parse_args(words)
    umount(given.merged, lazy=given.lazy)
    return 0
