"""`umount.fuse.pyunionfs`, which umount(8) runs where it has noted who mounted: then it waits for the daemon.

The calling convention is that of umount(8), "EXTERNAL HELPERS". Without this program umount(8) unmounts as
well, but returns before the daemon has written everything out.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from unionfs.cli.helper import HelperParser, end, say
from unionfs.errors import MountError, OptionError


def command() -> NoReturn:
    end(run)


def parser(program: str) -> HelperParser:
    made = HelperParser(
        program,
        "End a mount of pyunionfs as umount(8) asks for it, and return when everything is written out.",
        "TARGET [-flnrv]",
        examples=[("umount /merged", "by umount(8), which calls this program")],
    )
    made.add_argument("target", metavar="TARGET", nargs="?", help="the mountpoint")
    made.add_argument("-l", dest="lazy", action="store_true", help="take it away; open files are served on")
    made.add_argument("-f", dest="force", action="store_true", help="also when its daemon does not answer")
    made.add_argument("-r", dest="read_only", action="store_true", help="if it is busy: make it read-only")
    return made


def run(program: str, words: list[str]) -> int:
    """Do what umount(8) asks for. OptionError: the line is wrong; MountError: it cannot be done."""
    given = parser(program).parse(words)
    if not given.target:
        raise OptionError(f"TARGET is needed: {program} TARGET")
    from unionfs.control.unmount import StillServedError, leave_mount, umount
    from unionfs.options.mount_options import resolve_mountpoint

    target = resolve_mountpoint(given.target)
    leave_mount(target)
    done = "unmounted"
    try:
        umount(target, lazy=given.lazy, force=given.force)
    except StillServedError as error:
        # For umount(8), which ends one mount of a filesystem that may have several, that is success.
        print(f"{program}: {error}", file=sys.stderr)
    except MountError:
        if not given.read_only:
            raise
        done = _make_read_only(target)
    say(given, f"{program}: {given.target} {done}")
    return 0


def _make_read_only(target: str) -> str:
    from unionfs.control.remount import remount
    from unionfs.linux.mount import mount_at
    from unionfs.options.mount_options import parse_mount_flags

    entry = mount_at(target)
    kept = [] if entry is None else [*entry.options, *entry.super_options]
    # Those with a value say nothing of flags.
    kept = [word for word in kept if "=" not in word]
    remount(target, parse_mount_flags([",".join(kept), "ro"]))
    return "is busy, and read-only from now on"
