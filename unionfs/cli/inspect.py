"""`pyunionfs inspect`: all that is known of containers, images and mounts, as `docker inspect` prints it."""

from __future__ import annotations

import json
import sys
from typing import Any

from unionfs.cli import store_option
from unionfs.cli.go_template import Template, encode_json
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container import inspect as container_inspect
from unionfs.container import record
from unionfs.container.record import NoContainerError
from unionfs.errors import NotFoundError
from unionfs.image import find
from unionfs.image import inspect as image_inspect
from unionfs.image.store import Store

TYPES = ("container", "image", "mount")
"""In the order in which a name is looked for."""


def parser() -> Parser:
    made = Parser(
        "inspect",
        "Print all that is known of containers, images and mounts as a JSON array, with the fields that"
        " `docker inspect` has. NAME is the name or id of a container, the name, id or digest of an image,"
        " or a mountpoint; the first that there is.",
        "GraphDriver.Data has the directories of the layers, which kernel overlayfs can mount as they are."
        " For an image UpperDir is its topmost layer. The exit status is 1 if one NAME is not found; the"
        " others are printed.",
        examples=[
            ("pyunionfs inspect debian:12", "an image"),
            (
                "pyunionfs inspect -f '{{.GraphDriver.Data.LowerDir}}' debian:12",
                "the layers below the topmost",
            ),
            ("pyunionfs inspect -f '{{json .Config.Env}}' debian:12", "one field as JSON"),
            ("pyunionfs inspect --type mount merged", "the layers of a mounted union"),
        ],
    )
    made.add_argument("-f", "--format", metavar="TEMPLATE", help="a Go template for each, or `json`")
    made.add_argument(
        "--type", metavar="TYPE", choices=TYPES, help="look only for this: container, image or mount"
    )
    store_option.add(made)
    made.add_argument(
        "names", metavar="CONTAINER|IMAGE|MERGED", nargs="+", help="name or id, or a mountpoint"
    )
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    template = None if given.format in (None, "json") else Template(given.format)
    store = store_option.opened(given)
    found: list[dict[str, Any]] = []
    problems: list[NotFoundError] = []
    for name in given.names:
        try:
            found.append(_document(store, name, given.type))
        except NotFoundError as error:
            problems.append(error)
    if template is not None:
        for each in found:
            print(template.render(each))
    elif given.format == "json":
        print(encode_json(found))
    else:
        print(json.dumps(found, indent=4, ensure_ascii=False))
    for problem in problems:
        print(f"pyunionfs: {printable(str(problem))}", file=sys.stderr)
    return 1 if problems else 0


def _document(store: Store, name: str, kind: str | None) -> dict[str, Any]:
    """Of the first thing of that name. Raises NotFoundError."""
    for each in TYPES if kind is None else (kind,):
        found = _LOOK[each](store, name)
        if found is not None:
            return found
    raise NotFoundError(f"there is no {kind or 'container, image or mount'} {name}")


def _container(store: Store, name: str) -> dict[str, Any] | None:
    try:
        return container_inspect.container(record.find(store, name))
    except NoContainerError:
        return None


def _image(store: Store, name: str) -> dict[str, Any] | None:
    try:
        image = find.resolve(store, name)
    except NotFoundError:
        return None
    return image_inspect.image(store, image)


def _mount(store: Store, name: str) -> dict[str, Any] | None:
    # Most names are of containers and images, and this is slow to load.
    from unionfs.cli import inspect_mount

    return inspect_mount.mount(name)


_LOOK = {"container": _container, "image": _image, "mount": _mount}
