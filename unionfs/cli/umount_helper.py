"""`umount.fuse.pyunionfs`, the helper that umount(8) runs for a mount of mount(8): it waits for the daemon.

The calling convention is that of umount(8), "EXTERNAL HELPERS". Without the helper umount(8) unmounts, too,
but returns before the daemon has written all data.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from unionfs.cli.helper import HelperParser, end, report
from unionfs.errors import MountError, OptionError


def command() -> NoReturn:
    end(run)


def parser(program: str) -> HelperParser:
    made = HelperParser(
        program,
        "The unmount helper of umount(8). Returns when the daemon has written all data.",
        "TARGET [-flnrv]",
        examples=[("umount /merged", "umount(8) runs this program")],
    )
    made.add_argument("target", metavar="TARGET", nargs="?", help="the mountpoint")
    made.add_argument("-l", dest="lazy", action="store_true", help="lazy: detach now; open files are served")
    made.add_argument(
        "-f", dest="force", action="store_true", help="force: also if the daemon does not respond"
    )
    made.add_argument("-r", dest="read_only", action="store_true", help="if it is busy, remount it read-only")
    return made


def run(program: str, words: list[str]) -> int:
    """Unmount. OptionError: the command line is wrong; MountError: it failed."""
    given = parser(program).parse(words)
    if not given.target:
        raise OptionError(f"missing TARGET: write `{program} TARGET`")
    from unionfs.control.unmount import StillServedError, leave_mount, umount
    from unionfs.options.mount_options import resolve_mountpoint

    target = resolve_mountpoint(given.target)
    leave_mount(target)
    done = "unmounted"
    try:
        umount(target, lazy=given.lazy, force=given.force)
    except StillServedError as error:
        # umount(8) unmounts one of possibly several mounts of a filesystem: that has succeeded.
        print(f"{program}: {error}", file=sys.stderr)
    except MountError:
        if not given.read_only:
            raise
        done = _make_read_only(target)
    report(given, f"{program}: {given.target} {done}")
    return 0


def _make_read_only(target: str) -> str:
    from unionfs.control.remount import remount
    from unionfs.linux.mount import mount_at
    from unionfs.options.mount_options import parse_mount_flags

    entry = mount_at(target)
    kept = [] if entry is None else [*entry.options, *entry.super_options]
    # Flags have no value.
    kept = [word for word in kept if "=" not in word]
    remount(target, parse_mount_flags([",".join(kept), "ro"]))
    return "is busy, and was remounted read-only"
