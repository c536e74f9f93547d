"""`pyunionfs mount`: parses the command line and starts the daemon."""

from __future__ import annotations

from unionfs.cli.named_image import named_image
from unionfs.cli.parser import Parser, Table
from unionfs.errors import OptionError
from unionfs.options import mount_options
from unionfs.options.lists import escape
from unionfs.options.table import GROUPS, OPTIONS


def parser() -> Parser:
    made = Parser(
        "mount",
        "Mount the lower layers LOWER (topmost first) and the upper layer UPPER as one tree at MERGED."
        " Changes are written to UPPER; WORK is an empty directory on the same filesystem. Without UPPER"
        " and WORK the mount is read-only. With --image the layers of an image are below LOWER, which may"
        " then be left out.\n\nReturns when the mount is ready. A daemon serves it until"
        " `pyunionfs umount`.",
        "Escape a colon in the name of a LOWER as \\:, a backslash as \\\\, and a comma in the value of a"
        " mount option as \\, or put the value in double quotes. Of options that set the same thing the"
        " last counts.",
        usage=(
            "pyunionfs mount [OPTION...] LOWER[:LOWER...] [UPPER WORK] MERGED",
            "pyunionfs mount [OPTION...] --image IMAGE [LOWER:...] [UPPER WORK] MERGED",
            "pyunionfs mount [OPTION...] -o lowerdir=...[,upperdir=U,workdir=W] MERGED",
        ),
        examples=[
            ("pyunionfs mount site:base upper work merged", "site over base, changes go to upper"),
            ("pyunionfs mount site:base merged", "the same, read-only"),
            (
                "pyunionfs mount -o volatile,noatime base upper work merged",
                "without syncs, for data that may be lost",
            ),
            (
                "pyunionfs mount -o lowerdir=site:base,upperdir=upper,workdir=work merged",
                "with the mount options of overlayfs",
            ),
            ("pyunionfs mount --image debian:12 merged", "an image of the store, read-only"),
            (
                "pyunionfs mount --image debian:12 patches upper work merged",
                "a directory over an image, changes go to upper",
            ),
            (
                "pyunionfs mount -f --debug base upper work merged",
                "stay in the foreground, log every request",
            ),
        ],
        tables=option_tables,
    )
    made.add_argument(
        "directories", nargs="*", metavar="DIRECTORY", help="layers, work directory and mountpoint"
    )
    made.add_argument(
        "-f", "--foreground", action="store_true", help="stay in the foreground, log to standard error"
    )
    made.add_mount_options("mount options, comma-separated; may be repeated")
    made.add_argument("--image", metavar="IMAGE", help="the same as -o image=IMAGE")
    made.add_argument("--store", metavar="DIRECTORY", help="the same as -o store=DIRECTORY")
    made.add_argument("--debug", action="store_true", help="log every request")
    made.add_argument("--log-file", metavar="FILE", help="log to FILE instead of syslog")
    return made


def option_tables() -> list[Table]:
    """All mount options, by group."""
    return [
        (
            f"mount options for {title[0].lower()}{title[1:]}",
            [(option.syntax, option.text) for option in OPTIONS.values() if option.group == group],
        )
        for group, title in GROUPS.items()
    ]


def run(words: list[str]) -> int:
    try:
        given = parser().parse_intermixed_args(words)
    except OptionError as error:
        for word in words:
            option = word.removeprefix("--")
            name = option.partition("=")[0]
            if option != word and name in OPTIONS and name not in ("debug", "image", "store"):
                raise OptionError(
                    f"unknown option --{option}: {name} is a mount option, write -o {option}"
                ) from error
        raise
    for name in ("image", "store"):
        if (value := getattr(given, name)) is not None:
            given.options.append(f"{name}={escape(value)}")
    with named_image(given.options) as image:
        wanted = mount_options.parse(
            given.directories,
            given.options,
            foreground=given.foreground,
            debug=given.debug,
            log_file=given.log_file,
            image=image,
        )
        from unionfs.cli import supervised

        return supervised.mount(wanted)
