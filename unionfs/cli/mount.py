"""`pyunionfs mount`: from words to MountOptions, and then over to the daemon."""

from __future__ import annotations

from unionfs.cli.parser import Parser, Table
from unionfs.errors import OptionError
from unionfs.options import mount_options
from unionfs.options.table import GROUPS, OPTIONS


def parser() -> Parser:
    made = Parser(
        "mount",
        "Show LOWERs (leftmost on top) with UPPER over them as one tree at MERGED. Changes go to UPPER; WORK"
        " is an empty directory on UPPER's filesystem. Without UPPER and WORK the tree is read-only.\n\n"
        "Returns when the mount answers; a daemon serves it from then on, until `pyunionfs umount`.",
        "A colon in the name of a LOWER is written \\:, a backslash \\\\. A comma in the value of a mount"
        " option is written \\, or the value stands in double quotes. Of options that contradict each other"
        " the last counts.",
        usage=(
            "pyunionfs mount [OPTION...] LOWER[:LOWER...] [UPPER WORK] MERGED",
            "pyunionfs mount [OPTION...] -o lowerdir=...[,upperdir=U,workdir=W] MERGED",
        ),
        examples=[
            ("pyunionfs mount site:base upper work merged", "site over base, changes go to upper"),
            ("pyunionfs mount site:base merged", "the same, read-only"),
            ("pyunionfs mount -o volatile,noatime base upper work merged", "fast, for what may be lost"),
            (
                "pyunionfs mount -o lowerdir=site:base,upperdir=upper,workdir=work merged",
                "in the kernel's own words",
            ),
            ("pyunionfs mount -f --debug base upper work merged", "stay, and show each request"),
        ],
        tables=option_tables,
    )
    made.add_argument(
        "directories", nargs="*", metavar="DIRECTORY", help="the layers, top first, and the mountpoint"
    )
    made.add_argument("-f", "--foreground", action="store_true", help="stay, and log to standard error")
    made.add_mount_options("mount options, comma-separated; may be repeated")
    made.add_argument("--debug", action="store_true", help="log every request")
    made.add_argument("--log-file", metavar="FILE", help="log there instead of to syslog")
    return made


def option_tables() -> list[Table]:
    """All mount options, by what they concern."""
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
            if option != word and name in OPTIONS and name != "debug":
                raise OptionError(f"{name} is a mount option: -o {option}") from error
        raise
    wanted = mount_options.parse(
        given.directories,
        given.options,
        foreground=given.foreground,
        debug=given.debug,
        log_file=given.log_file,
    )
    from unionfs.daemon import lifecycle

    return lifecycle.mount(wanted)
