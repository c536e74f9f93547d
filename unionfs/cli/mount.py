"""`pyunionfs mount`: from words to MountOptions, and then over to the daemon."""

from __future__ import annotations

from unionfs import options
from unionfs.cli.parser import Parser
from unionfs.option_table import option_table


def parser() -> Parser:
    width = 2 + max(len(syntax) for syntax, _ in option_table())
    table = "\n".join(f"  {syntax:<{width}}{text}" for syntax, text in option_table())
    made = Parser(
        "mount",
        "Show LOWERs (leftmost on top) with UPPER over them as one tree at MERGED. Changes go to UPPER;"
        " WORK is an\n"
        "empty directory on UPPER's filesystem. Without UPPER and WORK the tree is read-only.",
        f"a colon in the name of a LOWER is written \\:, a backslash \\\\\n\nmount options:\n{table}",
        examples=[
            ("pyunionfs mount site:base upper work merged", "site over base, changes go to upper"),
            ("pyunionfs mount site:base merged", "the same, read-only"),
            ("pyunionfs mount -o volatile,noatime base upper work merged", "fast, for what may be lost"),
            ("pyunionfs mount -f --debug base upper work merged", "stay, and show each request"),
        ],
    )
    made.usage = (
        "pyunionfs mount [-f] [-o OPTIONS] [--debug] [--log-file FILE] LOWER[:LOWER...] [UPPER WORK] MERGED"
    )
    made.add_argument(
        "directories", nargs="*", metavar="DIRECTORY", help="LOWER[:LOWER...] [UPPER WORK] MERGED"
    )
    made.add_argument("-f", "--foreground", action="store_true", help="stay, and log to standard error")
    made.add_argument(
        "-o", dest="options", action="append", default=[], help="mount options, comma-separated"
    )
    made.add_argument("--debug", action="store_true", help="log every request")
    made.add_argument("--log-file", metavar="FILE", help="log there instead of to syslog")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_intermixed_args(words)
    mount_options = options.parse(
        given.directories,
        given.options,
        foreground=given.foreground,
        debug=given.debug,
        log_file=given.log_file,
    )
    from unionfs import daemon

    return daemon.mount(mount_options)
