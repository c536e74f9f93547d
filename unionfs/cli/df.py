"""`pyunionfs df`: how much of the disk the store takes, in the form of `docker system df`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unionfs.cli import listing, ps, store_option
from unionfs.cli.images import NONE
from unionfs.cli.mounted_layers import directories_in_use
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.container import record
from unionfs.container import volumes as volume_store
from unionfs.container.record import Container
from unionfs.container.state import State
from unionfs.container.volumes import Volume
from unionfs.errors import OptionError
from unionfs.image import tree_walk
from unionfs.image.store import Store
from unionfs.image.usage import ImageUsage, Part, Usage, usage

HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
"""The fields of --format, and their columns."""

_IMAGE_HEADERS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
}
_VOLUME_HEADERS = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
_CONTAINER_COLUMNS = ("ID", "Image", "Command", "Size", "RunningFor", "Status", "Names")


@dataclass(frozen=True, slots=True)
class _VolumeUsage:
    """A volume, how many containers have it, and its bytes."""

    volume: Volume
    links: int
    size: int


def parser() -> Parser:
    made = Parser(
        "df",
        "Show how much of the disk images, containers, volumes and the blobs of layers take, and how much of"
        " it could be freed.",
        "Layers that images share count once; with --verbose the images are listed, each with what it shares"
        " and what only it has. RECLAIMABLE is what `prune -a` frees of images, `rm` of containers that do"
        " not run, `prune --volumes=all` of volumes, `prune --blobs` of blobs and `prune` of downloads. Sizes"
        " are those of files. The fields of"
        " TEMPLATE are .Type, .TotalCount, .Active, .Size and .Reclaimable.",
        examples=[
            ("pyunionfs df", "the whole store"),
            ("pyunionfs df -v", "each image, container and volume"),
            ("pyunionfs df --json", "for programs, in bytes"),
        ],
    )
    made.add_argument("-v", "--verbose", action="store_true", help="list images, containers and volumes")
    made.add_argument("--json", action="store_true", help="print a JSON object, for programs")
    made.add_argument(
        "--format", metavar="TEMPLATE", help="a Go template for each line, `table ...` or `json`"
    )
    store_option.add(made)
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    if sum(map(bool, (given.json, given.verbose, given.format))) > 1:
        raise OptionError("df: --json, --verbose and --format conflict with each other")
    store = store_option.opened_for_trees(given)
    found = usage(store, directories_in_use())
    containers = [(each, each.state()) for each in record.containers(store)]
    volumes = _volumes(store, [each for each, _ in containers])
    parts = _parts(found, containers, volumes)
    if given.json:
        print(json.dumps(_document(found, containers, volumes, parts), indent=2))
    elif given.verbose:
        _print_all(found, containers, volumes, parts)
    else:
        form = given.format if given.format not in (None, "table") else listing.table(*HEADERS)
        for line in listing.listing([_row(*each) for each in parts], form, HEADERS):
            print(line)
    for problem in found.problems:
        print(f"pyunionfs: {printable(str(problem))}", file=sys.stderr)
    return 1 if found.problems else 0


def _volumes(store: Store, containers: Sequence[Container]) -> list[_VolumeUsage]:
    links = Counter(name for each in containers for name in volume_store.named(each.record.process.mounts))
    return [
        _VolumeUsage(each, links[each.name], tree_walk.size(each.data))
        for each in volume_store.volumes(store)
    ]


def _parts(
    found: Usage, containers: Sequence[tuple[Container, State]], volumes: Sequence[_VolumeUsage]
) -> list[tuple[str, Part]]:
    sizes = [(found.containers.get(each.id, 0), state.running) for each, state in containers]
    of_containers = Part(
        len(sizes),
        sum(running for _, running in sizes),
        sum(size for size, _ in sizes),
        sum(size for size, running in sizes if not running),
    )
    of_volumes = Part(
        len(volumes),
        sum(each.links > 0 for each in volumes),
        sum(each.size for each in volumes),
        sum(each.size for each in volumes if not each.links),
    )
    return [
        ("Images", found.layers),
        ("Containers", of_containers),
        ("Local Volumes", of_volumes),
        ("Layer Blobs", found.blobs),
        ("Downloads", found.downloads),
    ]


def _row(kind: str, part: Part) -> dict[str, object]:
    share = f" ({part.reclaimable * 100 // part.size}%)" if part.size else ""
    return {
        "Type": kind,
        "TotalCount": part.total,
        "Active": part.active,
        "Size": listing.size(part.size),
        "Reclaimable": listing.size(part.reclaimable) + share,
    }


def _print_all(
    found: Usage,
    containers: Sequence[tuple[Container, State]],
    volumes: Sequence[_VolumeUsage],
    parts: Sequence[tuple[str, Part]],
) -> None:
    print("Images space usage:\n")
    rows = [_image_row(each) for each in found.images]
    for line in listing.listing(rows, listing.table(*_IMAGE_HEADERS), _IMAGE_HEADERS):
        print(line)
    print("\nContainers space usage:\n")
    rows = [
        {**ps.row(each, state), "Size": listing.size(found.containers.get(each.id, 0))}
        for each, state in containers
    ]
    headers = {**ps.HEADERS, "Size": "SIZE"}
    for line in listing.listing(rows, listing.table(*_CONTAINER_COLUMNS), headers):
        print(line)
    print("\nLocal Volumes space usage:\n")
    rows = [
        {"Name": each.volume.name, "Links": each.links, "Size": listing.size(each.size)} for each in volumes
    ]
    for line in listing.listing(rows, listing.table(*_VOLUME_HEADERS), _VOLUME_HEADERS):
        print(line)
    for kind, part in parts[3:]:
        print(f"\n{kind} space usage: {listing.size(part.size)}")


def _image_row(each: ImageUsage) -> dict[str, object]:
    name = next(iter((*each.image.tags, *each.image.repo_digests)), None)
    return {
        "Repository": NONE if name is None else name.familiar_name,
        "Tag": NONE if name is None or name.tag is None else name.tag,
        "ID": each.id.short,
        "CreatedSince": listing.since(each.created),
        "Size": listing.size(each.size),
        "SharedSize": listing.size(each.shared),
        "UniqueSize": listing.size(each.unique),
        "Containers": each.containers,
    }


def _document(
    found: Usage,
    containers: Sequence[tuple[Container, State]],
    volumes: Sequence[_VolumeUsage],
    parts: Sequence[tuple[str, Part]],
) -> dict[str, Any]:
    """In the words of the Engine API's /system/df where it has them."""
    return {
        "LayersSize": found.layers.size,
        "Images": [
            {
                "Id": each.id,
                "RepoTags": [tag.familiar for tag in each.image.tags],
                "RepoDigests": [digest.familiar for digest in each.image.repo_digests],
                "Created": int(each.created.timestamp()) if each.created else None,
                "Size": each.size,
                "SharedSize": each.shared,
                "UniqueSize": each.unique,
                "Containers": each.containers,
            }
            for each in found.images
        ],
        "Containers": [
            {
                "Id": each.id,
                "Names": [each.name],
                "Image": each.record.image,
                "SizeRw": found.containers.get(each.id, 0),
                "State": state.status,
            }
            for each, state in containers
        ],
        "Volumes": [
            {
                "Name": each.volume.name,
                "CreatedAt": each.volume.record.created,
                "Driver": "local",
                "Mountpoint": str(each.volume.data),
                "Scope": "local",
                "UsageData": {"RefCount": each.links, "Size": each.size},
            }
            for each in volumes
        ],
        "Parts": {
            kind: {
                "TotalCount": part.total,
                "Active": part.active,
                "Size": part.size,
                "Reclaimable": part.reclaimable,
            }
            for kind, part in parts
        },
    }
