"""`--store`, for the commands that use the store of images. The store is opened when a command is run."""

from __future__ import annotations

import argparse
from pathlib import Path

from unionfs.cli.parser import Parser
from unionfs.image.store import Store


def add(parser: Parser) -> None:
    """--store, into `store`."""
    parser.add_argument(
        "--store",
        metavar="DIRECTORY",
        help="store of images and containers (default: PYUNIONFS_STORE; /var/lib/pyunionfs for root,"
        " $XDG_DATA_HOME/pyunionfs for others)",
    )


def opened(given: argparse.Namespace) -> Store:
    """The store that the command line names. Removes what killed commands left half."""
    store = Store(Path(given.store) if given.store is not None else None)
    store.sweep()
    return store
