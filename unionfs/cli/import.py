"""`pyunionfs import`: a root filesystem becomes an image of one layer, as `docker import`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from unionfs.cli import new_image_options, remarks, size_option, store_option
from unionfs.cli.parser import Parser
from unionfs.errors import ImageError, OptionError, explain
from unionfs.image import instructions, platform
from unionfs.image.blobs import BlobFile
from unionfs.image.import_tree import import_tar, import_tree
from unionfs.image.new_image import About, Made


def parser() -> Parser:
    made = Parser(
        "import",
        "Make an image of one layer of a root filesystem: the directory TREE, or TAR, which may be compressed"
        " (gzip, zstd, bzip2, xz); - is standard input. Prints the new image's id.",
        "A tar becomes the layer as it is. A tree gives the same layer on every machine, and with"
        " SOURCE_DATE_EPOCH in the environment, which replaces later times, the same image; sockets are left"
        f" out. INSTRUCTION is one of {', '.join(instructions.INSTRUCTIONS)}, as in a Dockerfile.",
        examples=[
            ("pyunionfs import rootfs.tar.xz debian:12", "a tar, as distributions publish it"),
            (
                "pyunionfs import -c 'CMD [\"bash\"]' ./rootfs debian:12",
                "a directory, as debootstrap makes it",
            ),
            ("pyunionfs export web | pyunionfs import - web:flat", "the tree of a container"),
        ],
    )
    new_image_options.add(made)
    made.add_argument(
        "--platform",
        metavar="OS/ARCHITECTURE",
        help="what the image runs on (default: this machine's)",
    )
    size_option.add(made)
    store_option.add(made)
    made.add_argument("what", metavar="TREE|TAR", help="directory, archive, or - for standard input")
    new_image_options.add_name(made)
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    tag = new_image_options.tag("import", given.name)
    wanted = platform.host() if given.platform is None else platform.parse(given.platform)
    about = About(
        message=given.message
        or f"Imported from {'-' if given.what == '-' else os.path.basename(given.what)}",
        config=instructions.apply({}, given.change) or None,
    )
    store = store_option.opened_for_trees(given)
    made: Made
    if os.path.isdir(given.what):
        made = import_tree(
            store,
            Path(given.what),
            about,
            remarks.printed,
            platform=wanted,
            tag=tag,
            compression=given.compression,
        )
    else:
        with BlobFile(_opened(given.what)) as source:
            made = import_tar(
                store,
                source,
                "standard input" if given.what == "-" else given.what,
                about,
                platform=wanted,
                limit=given.max_layer_size,
                tag=tag,
                compression=given.compression,
            )
    print(made.id)
    return 0


def _opened(name: str) -> int:
    if name == "-":
        if sys.stdin.isatty():
            raise OptionError("import: standard input is a terminal: name a file, or redirect it")
        return os.dup(0)
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"cannot read {explain(error)}") from None
