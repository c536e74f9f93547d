"""`mount.fuse.pyunionfs`, which mount(8) runs for `-t fuse.pyunionfs` and for such lines in /etc/fstab.

The calling convention is that of mount(8), "EXTERNAL HELPERS". Never mounts with other rights than its
caller's: for an ordinary user mount(8) runs it as that user.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NoReturn

from unionfs.cli.helper import HelperParser, end, say
from unionfs.errors import OptionError
from unionfs.options import mount_options
from unionfs.options.lists import escape, join_lowers, split_options
from unionfs.options.table import is_for_mount8


def command() -> NoReturn:
    end(run)


def parser(program: str) -> HelperParser:
    made = HelperParser(
        program,
        "Mount a union as mount(8) asks for it. SOURCE is any word, and shown as the source of the mount."
        " The options are those of `pyunionfs mount`; what only fstab means something by is accepted.",
        "SOURCE TARGET [-fnsv] [-o OPTIONS]",
        examples=[
            (
                "mount -t fuse.pyunionfs overlay /merged -o lowerdir=/a:/b,upperdir=/u,workdir=/w",
                "by mount(8), which calls this program",
            ),
            ("mount -o remount,ro /merged", "from now on without changes"),
        ],
    )
    made.add_argument("source", metavar="SOURCE", nargs="?", help="what the mount table shows as its source")
    made.add_argument("target", metavar="TARGET", nargs="?", help="the mountpoint")
    made.add_mount_options("comma-separated options")
    made.add_argument("-f", dest="fake", action="store_true", help="check everything, and mount nothing")
    made.add_argument("-s", dest="sloppy", action="store_true", help="leave unknown options aside")
    return made


def run(program: str, words: list[str]) -> int:
    """Do what mount(8) asks for. OptionError: the line is wrong; MountError: it cannot be done."""
    given = parser(program).parse(words)
    if not given.source or not given.target:
        raise OptionError(f"SOURCE and TARGET are needed: {program} SOURCE TARGET [-o OPTIONS]")
    if any("remount" in split_options(text) for text in given.options):
        from unionfs.control.remount import remount

        flags = mount_options.parse_mount_flags(given.options)
        if not given.fake:
            remount(given.target, flags)
        say(given, f"{program}: {given.target} remounted with {','.join(flags.flag_names()) or 'rw'}")
        return 0
    asked = mount_options.parse(
        [given.target],
        # First, so that an fsname among the options counts more.
        [f"fsname={escape(given.source)}", *given.options],
        on_unknown=lambda name: _ignore_unknown(name, given.sloppy),
    )
    if given.fake:
        from unionfs.daemon.other_unions import refuse_shared_layers
        from unionfs.overlay.check import check
        from unionfs.transport.mount import check_mountpoint

        check_mountpoint(asked.mountpoint)
        check(asked.config, asked.mountpoint)
        refuse_shared_layers(asked.config)
    else:
        from unionfs.daemon import lifecycle

        lifecycle.mount(asked)
        _have_umount_wait(given.source, asked.mountpoint)
    config = asked.config
    upper = "read-only" if config.upper is None else f"upper {config.upper}, work {config.work}"
    what = "could be mounted" if given.fake else "mounted"
    lowers = join_lowers(config.lowers, config.data_lowers)
    say(given, f"{program}: {given.source} {what} on {asked.mountpoint}: lowers {lowers}, {upper}")
    return 0


def _have_umount_wait(source: str, mountpoint: str) -> None:
    """Note in libmount's table that umount(8) is to call our helper, which waits for the daemon.

    Without an entry there umount(8) takes the type from statfs(2), which says no more than FUSE.
    `mount -f -i` adds one and mounts nothing.
    """
    if os.geteuid() != 0:
        return  # mount(8) has a set-user-ID program's rights and notes it itself for an ordinary user
    words = ["mount", "-f", "-i", "-t", "fuse.pyunionfs", "-o", "uhelper=fuse.pyunionfs", source, mountpoint]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = f"{error}"
    if problem:
        print(f"mount.fuse.pyunionfs: umount(8) will not wait for the daemon: {problem}", file=sys.stderr)


def _ignore_unknown(name: str, sloppy: bool) -> None:
    if not sloppy and not is_for_mount8(name):
        raise mount_options.unknown_option(name)
