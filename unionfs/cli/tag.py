"""`pyunionfs tag`: gives an image one name more."""

from __future__ import annotations

from unionfs.cli import store_option
from unionfs.cli.parser import Parser
from unionfs.errors import OptionError
from unionfs.image import find, index, names


def parser() -> Parser:
    made = Parser(
        "tag",
        "Give IMAGE one name more. An image that has that name loses it, and stays.",
        examples=[
            ("pyunionfs tag debian:12 localhost:5000/base:1", "the name under which it is to be pushed"),
            ("pyunionfs tag 3d868b5eb908 debian:old", "by the beginning of its id"),
        ],
    )
    store_option.add(made)
    made.add_argument("image", metavar="IMAGE", help="name, id or digest")
    made.add_argument("name", metavar="NAME[:TAG]", help="the new name; without a tag: latest")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    name = names.parse(given.name)
    if name.digest is not None:
        raise OptionError(
            f"tag: {given.name}: a name with a digest is the registry's: give a tag, or nothing"
        )
    store = store_option.opened(given)
    with store.in_use():
        image = find.resolve(store, given.image)
        index.add(store, image.manifest, name.tagged())
    return 0
