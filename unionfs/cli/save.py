"""`pyunionfs save`: images of the store into an archive or a layout directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from unionfs.cli import output_file, store_option
from unionfs.cli.parser import Parser
from unionfs.errors import ImageError, OptionError
from unionfs.image import archive_save
from unionfs.image.digest import Digest

FORMATS = ("docker-archive", "oci-archive", "oci-dir")


def parser() -> Parser:
    made = Parser(
        "save",
        "Write images with their names into one archive, for `docker load`, `podman load`, `skopeo copy`,"
        " `ctr image import` or `pyunionfs load`. IMAGE is a name with a tag; a name without one stands for"
        " all its tags; an id or a digest for an image without a name.",
        "docker-archive has the layers uncompressed, as from Docker. oci-archive and oci-dir are OCI layouts,"
        " with all blobs as they are in the store; Docker's media types become OCI's, since other programs"
        " find no others in a layout: the manifest of such an image gets another digest, its id stays. podman"
        " loads several images from a docker-archive only. The same images give the same bytes.",
        examples=[
            ("pyunionfs save debian:12 -o debian.tar", "one image"),
            (
                "pyunionfs save debian user/x:1 | ssh host docker load",
                "all tags of debian, and another image",
            ),
            ("pyunionfs save --format oci-dir -o layout debian:12", "a directory for skopeo and umoci"),
        ],
    )
    output_file.add(made)
    made.add_argument(
        "--format",
        metavar="FORMAT",
        choices=FORMATS,
        default=FORMATS[0],
        help="docker-archive (the default), oci-archive or oci-dir",
    )
    store_option.add(made)
    made.add_argument("images", metavar="IMAGE", nargs="+", help="name, id or digest")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if given.output == "-":
        if given.format == "oci-dir":
            raise OptionError("save: --format oci-dir needs --output DIRECTORY")
        output_file.refuse_terminal("save")
    store = store_option.opened_for_trees(given)
    with store.in_use():
        chosen = archive_save.choose(store, given.images)
        if given.format == "oci-dir":
            _tell(archive_save.save_directory(store, chosen, _new_directory(given.output)))
        else:
            with output_file.opened(given.output) as fd:
                if given.format == "oci-archive":
                    _tell(archive_save.save_oci(store, chosen, fd))
                else:
                    archive_save.save_docker(store, chosen, fd)
    return 0


def _new_directory(name: str) -> Path:
    path = Path(os.path.abspath(name))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ImageError(f"{name}: there already, and no empty directory: give another name, or remove it")
    return path


def _tell(anew: list[Digest]) -> None:
    """Which layers are not as they came."""
    for diff_id in anew:
        print(
            f"pyunionfs: layer {diff_id}: its blob was freed by `prune --blobs`: saved uncompressed,"
            " so that the digest of the manifest is another",
            file=sys.stderr,
        )
