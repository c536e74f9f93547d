"""`pyunionfs rmi`: removes images, in the form of `docker rmi`."""

from __future__ import annotations

import sys

from unionfs.cli import store_option
from unionfs.cli.mounted_layers import directories_in_use
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container.record import containers
from unionfs.errors import ImageError
from unionfs.image import remove
from unionfs.image.digest import Digest
from unionfs.image.remove import User
from unionfs.image.store import Store


def parser() -> Parser:
    made = Parser(
        "rmi",
        "Remove names of images, and each image with its last name, with all layers that no other image, no"
        " container and no mount has. Of an IMAGE that is an id all names of one repository go.",
        "An image of a container is removed with --force only, and not while it runs; its layers stay as long"
        " as the container does. The exit status is 1 if one IMAGE was not removed; the others are.",
        examples=[
            ("pyunionfs rmi debian:12", "one name, and the image if that was its last"),
            ("pyunionfs rmi -f 3d868b5eb908", "an image with all its names"),
            ("pyunionfs rmi $(pyunionfs images -q --filter dangling=true)", "all without a name"),
        ],
    )
    made.add_argument(
        "-f", "--force", action="store_true", help="also if a container has it, or several names"
    )
    store_option.add(made)
    made.add_argument("images", metavar="IMAGE", nargs="+", help="name, id or digest")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    store = store_option.opened_for_trees(given)
    status = 0
    with store.pruning(_report_busy):
        for text in given.images:
            try:
                removed = remove.remove(
                    store, text, _users(store), force=given.force, directories=directories_in_use()
                )
            except ImageError as error:
                print(f"pyunionfs: {printable(str(error))}", file=sys.stderr)
                status = 1
                continue
            for name in removed.untagged:
                print(f"Untagged: {name.familiar}")
            for digest in removed.deleted:
                print(f"Deleted: {digest}")
            for broken in removed.broken:
                print(f"pyunionfs: rmi: {printable(str(broken))}", file=sys.stderr)
    return status


def _users(store: Store) -> list[User]:
    return [
        User(each.name, Digest(each.record.image_id), each.state().running, each.record.manifest.digest)
        for each in containers(store)
    ]


def _report_busy() -> None:
    print("pyunionfs: rmi: waiting for a command that is changing the store", file=sys.stderr)
