"""`pyunionfs commit`: what a container, an upper or a mount has over its image becomes a new image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionfs.cli import new_image_options, remarks, store_option
from unionfs.cli.parser import Parser
from unionfs.container import committed, record
from unionfs.container.record import Container, NoContainerError
from unionfs.errors import ImageError, NotFoundError, OptionError
from unionfs.image import find, find_by_layers, instructions
from unionfs.image.commit import Above, commit
from unionfs.image.index import Image
from unionfs.image.new_image import About, base_of
from unionfs.image.store import Store
from unionfs.linux.syscalls import syncfs
from unionfs.offline.changes import check_layer

if TYPE_CHECKING:
    from unionfs.cli.mounted_layers import Layers

_BY = "pyunionfs commit"


def parser() -> Parser:
    made = Parser(
        "commit",
        "Make a new image of a container: a layer of what its upper has over its image's layers. UPPER is the"
        " upper directory of any union, MERGED a mount of pyunionfs or overlayfs. Prints the new image's id.",
        "A layer has what differs from those below; where nothing does, only the image's config is new."
        " The same upper gives the same layer on every machine, and with SOURCE_DATE_EPOCH in the"
        " environment, which replaces later times, the same image. Sockets are left out. A container may be"
        " running and a union mounted: it is not stopped, and each file is as it was when it was read."
        f" INSTRUCTION is one of {', '.join(instructions.INSTRUCTIONS)}, as in a Dockerfile.",
        examples=[
            ("pyunionfs commit -m 'with the fix' web registry.example.org/web:2", "a container"),
            ("pyunionfs commit -c 'CMD [\"nginx\"]' -c 'EXPOSE 80' web web:2", "with another command"),
            ("pyunionfs commit -c 'HEALTHCHECK CMD nc -z localhost 80' web web:3", "a check, for engines"),
            ("pyunionfs commit merged tools:new", "a mount of an image"),
            ("pyunionfs commit --base debian:12 upper tools:new", "an upper that is not mounted"),
        ],
    )
    made.add_argument("-a", "--author", default="", metavar="AUTHOR", help="the author of the image")
    new_image_options.add(made)
    made.add_argument(
        "--base",
        metavar="IMAGE",
        help="the image that UPPER is over (default: of MERGED, the one with its layers; of UPPER, none: the"
        " new image has one layer)",
    )
    store_option.add(made)
    made.add_argument("what", metavar="CONTAINER|UPPER|MERGED", help="container, upper layer or mountpoint")
    new_image_options.add_name(made)
    return made


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is to be committed, over which image."""

    above: Above
    base: Image | None
    container: Container | None = None
    merged: str | None = None


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    tag = new_image_options.tag("commit", given.name)
    store = store_option.opened_for_trees(given)
    subject = _subject(store, given.what, given.base)
    about = About(
        " ".join(subject.container.record.process.args) if subject.container is not None else _BY,
        given.author,
        given.message,
        _config(store, subject, given.change),
    )
    _flush(subject)
    made = commit(
        store, subject.above, subject.base, about, remarks.printed, tag=tag, compression=given.compression
    )
    print(made.id)
    return 0


def _subject(store: Store, what: str, base: str | None) -> _Subject:
    """Raises NotFoundError where there is no such container or directory."""
    if "/" not in what:
        with suppress(NoContainerError):
            container = record.find(store, what)
            if base is not None:
                raise OptionError(f"option --base conflicts with container {what}, whose image is known")
            return _Subject(Above([container.upper]), Image(container.record.manifest), container)
    if not os.path.lexists(what):
        raise NotFoundError(
            f"there is no container and no directory {what}: `pyunionfs ps -a` lists containers"
        )
    # Not for containers: what looks at mounts takes a sixth of the start.
    from unionfs.cli.mounted_layers import layers_of_mount, refuse_inside
    from unionfs.options.mount_options import resolve_mountpoint

    path = resolve_mountpoint(what)
    layers = layers_of_mount(path)
    if layers is not None:
        return _mount(store, layers, base)
    check_layer("upper", path)
    refuse_inside(path)
    return _Subject(Above([Path(path)]), None if base is None else find.resolve(store, base))


def _mount(store: Store, layers: Layers, base: str | None) -> _Subject:
    """A mount: what lies over the image's layers, which are its lowest lowers."""
    assert layers.lowers is not None
    lowers = [os.path.realpath(path) for path in layers.lowers]
    image: Image | None = None
    if base is None:
        found = find_by_layers.image_of(store, lowers, layers.image)
        image, count = (None, 0) if found is None else found
    else:
        image = find.resolve(store, base)
        below = find_by_layers.lowers_of(store, image)
        count = len(lowers) - len(below)
        if lowers[max(count, 0) :] != below:
            raise ImageError(
                f"option --base: the layers of {base} are not the lowest of {layers.merged}: name the image"
                " that is mounted there, or give its upper directory"
            )
    index = None if layers.work is None else Path(layers.work, "index")
    above = Above(
        [Path(layers.upper), *map(Path, lowers[:count])],
        list(map(Path, lowers)) if image is None else None,
        [Path(path) for path in layers.data_lowers],
        layers.userxattr,
        index,
    )
    return _Subject(above, image, merged=layers.merged)


def _config(store: Store, subject: _Subject, changes: list[str]) -> Mapping[str, Any] | None:
    """The new image's section `config`; None: that of its base."""
    base = None if subject.base is None else base_of(store, subject.base)
    section = {} if base is None else base.document.get("config") or {}
    if subject.container is not None and base is not None:
        section = committed.config_of(subject.container, section, base.config.config)
    elif not changes:
        return None
    return instructions.apply(section, changes)


def _flush(subject: _Subject) -> None:
    """Have in upper what programs have written: the kernel may keep it for the union's daemon for a while."""
    if subject.container is not None:
        committed.flush(subject.container)
    elif subject.merged is not None:
        with suppress(PermissionError):  # another user's, whose data only that user can flush
            fd = os.open(subject.merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syncfs(fd)
            finally:
                os.close(fd)
