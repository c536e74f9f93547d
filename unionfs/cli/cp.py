"""`pyunionfs cp`: copies files and trees between containers and here, as `docker cp` does."""

from __future__ import annotations

import sys

from unionfs.cli import listing, store_option
from unionfs.cli.parser import Parser
from unionfs.container import record
from unionfs.errors import OptionError
from unionfs.image.compression import decompressed

_MOST = 1 << 44
"""Bytes that a compressed tar stream may have."""


def parser() -> Parser:
    made = Parser(
        "cp",
        "Copy a file or a tree from a container or into one, which may be running. Parents of the target must"
        " be there. A directory that is copied to one that is there becomes an entry of it; SRC/. stands for"
        " what is in the directory. - stands for a tar stream.",
        "Modes and times are kept. What is copied into a container belongs to its root, what is copied here"
        " to the user; with --archive, and of a tar stream, owners are kept. Symlinks on the way are resolved"
        " in the container's root. Of a container that does not run, volumes and what --volume shows are"
        " there, and no tmpfs.",
        usage=(
            "pyunionfs cp [OPTION...] CONTAINER:SRC DEST|-",
            "pyunionfs cp [OPTION...] SRC|- CONTAINER:DEST",
        ),
        examples=[
            ("pyunionfs cp web:/etc/nginx .", "a directory of a container, to here"),
            ("pyunionfs cp site/. web:/srv/www", "what is in site, into a container"),
            ("pyunionfs cp web:/var/log - | tar tv", "as a tar stream"),
        ],
    )
    made.add_argument("-a", "--archive", action="store_true", help="keep owners")
    made.add_argument("-L", "--follow-link", action="store_true", help="copy what the symlink SRC leads to")
    made.add_argument("-q", "--quiet", action="store_true", help="do not print what was copied")
    store_option.add(made)
    made.add_argument("source", metavar="SRC", help="path here, CONTAINER:PATH, or -")
    made.add_argument("target", metavar="DEST", help="path here, CONTAINER:PATH, or -")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_intermixed_args(words)
    from unionfs.container import copy

    (source_name, source), (target_name, target) = split(given.source), split(given.target)
    if (source_name is None) == (target_name is None):
        both = "two paths here" if source_name is None else "two containers"
        raise OptionError(f"cp: {both} were given: write one of them as CONTAINER:PATH")
    store = store_option.opened(given)
    container = record.find(store, source_name or target_name or "")
    what = copy.Source(source, given.follow_link)
    if source_name is not None:
        if target == "-":
            copy.tar_out(container, what, sys.stdout.buffer)
            return 0
        size = copy.copy_out(container, what, target, keep_owners=given.archive)
    elif source == "-":
        copy.tar_in(container, decompressed(sys.stdin.buffer, "the tar stream", _MOST), target)
        return 0
    else:
        size = copy.copy_in(container, what, target, keep_owners=given.archive)
    if not given.quiet:
        print(f"Successfully copied {listing.size(size)} to {given.target}", file=sys.stderr)
    return 0


def split(text: str) -> tuple[str | None, str]:
    """The container, and the path in it or here: one with a colon in its name is written /... or ./..."""
    name, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        return None, text
    return name, path
