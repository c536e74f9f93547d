"""The options of commands that make an image: its compression, comment, changes of its config, and name."""

from __future__ import annotations

from unionfs.cli.parser import Parser
from unionfs.errors import OptionError
from unionfs.image import names
from unionfs.image.compression import KINDS
from unionfs.image.names import Reference


def add(parser: Parser) -> None:
    """-m, -c and --compression, into `message`, `change` and `compression`."""
    parser.add_argument("-m", "--message", default="", metavar="MESSAGE", help="a comment, for the history")
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="INSTRUCTION",
        help="change the image's config by a Dockerfile instruction; may be repeated",
    )
    parser.add_argument(
        "--compression",
        metavar="KIND",
        choices=KINDS,
        default="gzip",
        help="of the new layer: gzip (the default), zstd or none",
    )


def add_name(parser: Parser) -> None:
    """The last argument, into `name`."""
    parser.add_argument(
        "name", metavar="NAME[:TAG]", nargs="?", help="the new image's name; without one: none"
    )


def tag(command: str, text: str | None) -> Reference | None:
    """The name; None: the image gets none. Raises ImageError or OptionError for what is no name of a tag."""
    if text is None:
        return None
    name = names.parse(text)
    if name.digest is not None:
        raise OptionError(
            f"{command}: {text}: a name with a digest is the registry's: give a tag, or nothing"
        )
    return name.tagged()
