"""`pyunionfs load`: images from an archive or a layout directory into the store."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from unionfs.cli import size_option, store_option
from unionfs.cli.layer_lines import LayerLines
from unionfs.cli.parser import Parser
from unionfs.errors import ImageError, OptionError, explain
from unionfs.image import archive, platform
from unionfs.image.progress import State

_WORDS: Mapping[State, str] = {"downloading": "Loading layer", "done": "Loaded layer"}


def parser() -> Parser:
    made = Parser(
        "load",
        "Load all images of an archive or a directory into the store, with their names. FILE is what"
        " `docker save`, `podman save`, `skopeo copy`, `buildah push` or `ctr image export` has written: a"
        " Docker archive or an OCI archive, also compressed (gzip, zstd, bzip2, xz), or the directory of an"
        " OCI layout. - or none is standard input.",
        "Every digest is verified; if one does not match, or anything is missing, no image is loaded. A pipe"
        " or a compressed archive is first written into the store's ingest directory, since most programs put"
        " last what says how to read the rest: it needs room for that. A tar in a file is read in place.",
        examples=[
            ("pyunionfs load debian.tar", "load an archive; prints the names of its images"),
            ("pyunionfs load < debian.tar.gz", "from standard input, compressed"),
            ("pyunionfs load ./layout", "an OCI layout directory, as umoci and skopeo make it"),
        ],
    )
    made.add_argument("-i", "--input", metavar="FILE", help="read this archive or directory, as FILE")
    made.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    made.add_argument(
        "--platform",
        metavar="OS/ARCHITECTURE",
        help="of images for several platforms load this one (default: this machine's)",
    )
    size_option.add(made)
    store_option.add(made)
    made.add_argument("file", metavar="FILE", nargs="?", help="archive, layout directory, or - (the default)")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if given.input is not None and given.file is not None:
        raise OptionError("load: FILE is given twice: --input conflicts with it")
    name = given.input or given.file or "-"
    wanted = None if given.platform is None else platform.parse(given.platform)
    fd = _opened(name)
    try:
        store = store_option.opened_for_trees(given)
        # As Docker: lines of layers are for a terminal.
        quiet = given.quiet or not sys.stdout.isatty()
        with LayerLines(quiet=quiet, words=_WORDS) as lines:
            loaded = archive.load(
                store,
                fd,
                "standard input" if name == "-" else name,
                lines,
                wanted=wanted,
                max_layer_size=given.max_layer_size,
            )
    finally:
        os.close(fd)
    for image in loaded:
        for tag in image.tags:
            print(f"Loaded image: {tag.familiar}")
        if not image.tags:
            print(f"Loaded image ID: {image.id}")
    return 0


def _opened(name: str) -> int:
    if name == "-":
        if sys.stdin.isatty():
            raise OptionError(
                "load: standard input is a terminal: give FILE, or have an archive written to it"
            )
        return os.dup(0)
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"cannot open {explain(error)}") from None
