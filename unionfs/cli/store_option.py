"""`--store`, for the commands that use the store of images. The store is opened when a command is run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from unionfs.cli.parser import Parser
from unionfs.image.store import Store, default_root


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


def opened_for_trees(given: argparse.Namespace) -> Store:
    """The same, for a command that makes, reads or removes trees of layers and containers.

    An ordinary user's goes on in a user namespace, so it must have no threads yet. (exec and cp enter that of
    the container instead.) Raises ContainerError.
    """
    if os.geteuid() != 0:
        from unionfs.cli import user_ids

        user_ids.enter(Path(given.store).absolute() if given.store is not None else default_root())
    return opened(given)
