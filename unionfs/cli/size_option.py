"""`--max-layer-size`, for the commands that unpack layers."""

from __future__ import annotations

import argparse
import re

from unionfs.cli.parser import Parser
from unionfs.image.layers import MAX_LAYER_SIZE

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def add(parser: Parser) -> None:
    """--max-layer-size, in bytes, into `max_layer_size`."""
    parser.add_argument(
        "--max-layer-size",
        metavar="SIZE",
        type=_bytes,
        default=MAX_LAYER_SIZE,
        help="refuse a layer that is larger when decompressed, as in 500M (default: 64G)",
    )


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})([kmgt]?)(?:i?b)?", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: as in 10G or 500M")
    return int(found[1]) * _UNITS[found[2]]
