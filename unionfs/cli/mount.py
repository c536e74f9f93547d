"""`pyunionfs mount`: from words to MountOptions, and then over to the daemon."""

from __future__ import annotations

from unionfs import options
from unionfs.cli.parser import Parser


def _parser() -> Parser:
    width = 2 + max(len(syntax) for syntax, _ in options.option_table())
    table = "\n".join(f"  {syntax:<{width}}{text}" for syntax, text in options.option_table())
    parser = Parser(
        "mount",
        "Show LOWERs (leftmost on top) with UPPER over them as one tree at MERGED. Changes go to UPPER;"
        " WORK is an\n"
        "empty directory on UPPER's filesystem. Without UPPER and WORK the tree is read-only.",
        f"a colon in the name of a LOWER is written \\:, a backslash \\\\\n\nmount options:\n{table}",
    )
    parser.usage = (
        "pyunionfs mount [-f] [-o OPTIONS] [--debug] [--log-file FILE] LOWER[:LOWER...] [UPPER WORK] MERGED"
    )
    parser.add_argument(
        "directories", nargs="*", metavar="DIRECTORY", help="LOWER[:LOWER...] [UPPER WORK] MERGED"
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay, and log to standard error")
    parser.add_argument(
        "-o", dest="options", action="append", default=[], help="mount options, comma-separated"
    )
    parser.add_argument("--debug", action="store_true", help="log every request")
    parser.add_argument("--log-file", metavar="FILE", help="log there instead of to syslog")
    return parser


def run(words: list[str]) -> int:
    given = _parser().parse_intermixed_args(words)
    mount_options = options.parse(
        given.directories,
        given.options,
        foreground=given.foreground,
        debug=given.debug,
        log_file=given.log_file,
    )
    from unionfs import daemon

    return daemon.mount(mount_options)
