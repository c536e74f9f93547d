"""`mount.fuse.pyunionfs`, the helper that mount(8) runs for the type fuse.pyunionfs, also from /etc/fstab.

The calling convention is that of mount(8), "EXTERNAL HELPERS". It mounts with the privileges of its caller
only: for an ordinary user mount(8) runs it as that user.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import NoReturn

from unionfs.cli.helper import HelperParser, end, report
from unionfs.cli.named_image import named_image
from unionfs.errors import OptionError
from unionfs.options import mount_options
from unionfs.options.lists import escape, join_lowers, split_options

_FSTAB_WORDS = """
    defaults auto noauto nofail _netdev _rnetdev user nouser users nousers owner noowner group nogroup
    comment uhelper helper silent loud remount
"""
_FSTAB = frozenset(_FSTAB_WORDS.split())


def command() -> NoReturn:
    end(run)


def parser(program: str) -> HelperParser:
    made = HelperParser(
        program,
        "The mount helper of mount(8). SOURCE is any word, and the source in the mount table. The options are"
        " those of `pyunionfs mount`; options that concern fstab(5) only are ignored.",
        "SOURCE TARGET [-fnsv] [-o OPTIONS]",
        examples=[
            (
                "mount -t fuse.pyunionfs overlay /merged -o lowerdir=/a:/b,upperdir=/u,workdir=/w",
                "mount(8) runs this program",
            ),
            ("mount -t fuse.pyunionfs debian /merged -o image=debian:12", "an image of the store, read-only"),
            ("mount -o remount,ro /merged", "remount read-only"),
        ],
    )
    made.add_argument("source", metavar="SOURCE", nargs="?", help="source in the mount table")
    made.add_argument("target", metavar="TARGET", nargs="?", help="the mountpoint")
    made.add_mount_options("comma-separated options")
    made.add_argument("-f", dest="fake", action="store_true", help="fake: check everything, but do not mount")
    made.add_argument("-s", dest="sloppy", action="store_true", help="sloppy: ignore unknown options")
    return made


def run(program: str, words: list[str]) -> int:
    """Mount or remount. OptionError: the command line is wrong; MountError: it failed."""
    given = parser(program).parse(words)
    if not given.source or not given.target:
        raise OptionError(f"missing SOURCE or TARGET: write `{program} SOURCE TARGET [-o OPTIONS]`")
    if any("remount" in split_options(text) for text in given.options):
        from unionfs.control.remount import remount

        flags = mount_options.parse_mount_flags(given.options)
        if not given.fake:
            remount(given.target, flags)
        report(given, f"{program}: {given.target} remounted with {','.join(flags.flag_names()) or 'rw'}")
        return 0
    with named_image(given.options) as image:
        return _mount(program, given, image)


def _mount(program: str, given: argparse.Namespace, image: mount_options.ImageLayers | None) -> int:
    asked = mount_options.parse(
        [given.target],
        # First, so that an fsname among the options overrides it.
        [f"fsname={escape(given.source)}", *given.options],
        on_unknown=lambda name: _ignore_unknown(name, given.sloppy),
        image=image,
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
        _note_umount_helper(given.source, asked.mountpoint)
    config = asked.config
    upper = "read-only" if config.upper is None else f"upper {config.upper}, work {config.work}"
    what = "could be mounted" if given.fake else "mounted"
    lowers = join_lowers(config.lowers, config.data_lowers)
    report(given, f"{program}: {given.source} {what} on {asked.mountpoint}: lowers {lowers}, {upper}")
    return 0


def _note_umount_helper(source: str, mountpoint: str) -> None:
    """Note in libmount's table that umount(8) runs our helper, which waits for the daemon.

    Without an entry there umount(8) knows the type from statfs(2), which is FUSE for all of its kind.
    `mount -f -i` adds an entry and mounts nothing.
    """
    if os.geteuid() != 0:
        return  # for an ordinary user mount(8), a set-user-ID program, notes it by itself
    words = ["mount", "-f", "-i", "-t", "fuse.pyunionfs", "-o", "uhelper=fuse.pyunionfs", source, mountpoint]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = f"{error}"
    if problem:
        print(
            "mount.fuse.pyunionfs: cannot note the helper of umount(8), which will not wait for the daemon:"
            f" {problem}",
            file=sys.stderr,
        )


def _ignore_unknown(name: str, sloppy: bool) -> None:
    if not sloppy and not is_for_mount8(name):
        raise mount_options.unknown_option(name)


def is_for_mount8(name: str) -> bool:
    """Whether an option concerns mount(8), fstab(5) or systemd only and not the filesystem.

    mount(8) gives its helpers what follows from such an option among the others: `user` brings nosuid, nodev
    and noexec along.
    """
    return name in _FSTAB or name.startswith(("x-", "X-"))
