"""`pyunionfs export`: the tree of a container, an image or a mount as one tar."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from unionfs.cli import output_file, remarks, store_option
from unionfs.cli.parser import Parser
from unionfs.container import committed, record
from unionfs.container.record import NoContainerError
from unionfs.errors import ImageError, NotFoundError
from unionfs.image import find, whole_tree
from unionfs.image.layers import ensure
from unionfs.image.lowers import tree_paths
from unionfs.image.new_image import base_of, latest_mtime, source_date_epoch
from unionfs.image.store import Store
from unionfs.linux import mount
from unionfs.linux.process import may_use_trusted_xattrs, raise_open_file_limit
from unionfs.offline.changes import uses_userxattr
from unionfs.offline.layer_view import open_view
from unionfs.options.mount_options import resolve_mountpoint
from unionfs.transport.mount import FSTYPE


def parser() -> Parser:
    made = Parser(
        "export",
        "Write the whole tree of a container, an image or a mounted union as one tar, sorted and with all"
        " attributes. Of a container that is the tree in which it runs, with its init layer (/etc/hosts and"
        " the like).",
        "Nothing is mounted for it. Sockets are left out. A container may be running, and then each file is"
        " as it was when it was read. A name is looked for among containers, images and mountpoints, in this"
        " order.",
        examples=[
            ("pyunionfs export web -o web.tar", "the tree of a container"),
            ("pyunionfs export debian:12 | tar -xC target", "unpack an image"),
            ("pyunionfs export web | pyunionfs import - web:flat", "an image of one layer"),
        ],
    )
    output_file.add(made)
    store_option.add(made)
    made.add_argument("name", metavar="CONTAINER|IMAGE|MERGED", help="container, image or mountpoint")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if given.output == "-":
        output_file.refuse_terminal("export")
    raise_open_file_limit()
    store = store_option.opened_for_trees(given)
    # Held, so that no layer is removed meanwhile.
    with store.in_use():
        layers = _layers(store, given.name)
        with (
            open_view(layers.upper, layers.lowers, userxattr=layers.userxattr) as view,
            output_file.opened(given.output) as fd,
            open(fd, "wb", closefd=False) as out,
        ):
            whole_tree.write(view, out.write, remarks.printed, latest_mtime(source_date_epoch()))
    return 0


@dataclass(frozen=True, slots=True)
class _Layers:
    upper: str | None
    lowers: list[str]
    userxattr: bool


def _layers(store: Store, name: str) -> _Layers:
    """The layers of the first thing of that name. Raises NotFoundError."""
    with suppress(NoContainerError):
        container = record.find(store, name)
        committed.flush(container)
        upper = str(container.upper)
        return _Layers(upper, [*map(str, container.lowers())], uses_userxattr(upper))
    userxattr = not may_use_trusted_xattrs()
    with suppress(NotFoundError):
        found = base_of(store, find.resolve(store, name))
        trees = tree_paths(ensure(store, found.manifest, found.config))
        if not trees:
            raise ImageError(f"image {name} has no layers: there is nothing to export")
        return _Layers(None, [*map(str, trees)], userxattr)
    path = resolve_mountpoint(name)
    entry = mount.mount_at(path)
    if entry is None or entry.fstype not in ("overlay", FSTYPE):
        raise NotFoundError(f"there is no container, image or mounted union {name}")
    # As the mount shows it, which may have what no layer says: an index, or data still to be written.
    return _Layers(None, [path], userxattr)
