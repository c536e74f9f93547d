"""How an image was made, step by step, and which images of the store are among its steps. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from unionfs.errors import ImageError
from unionfs.image import find, index
from unionfs.image.digest import Digest
from unionfs.image.index import Image
from unionfs.image.layer_record import find as find_layer
from unionfs.image.model import Config, History, chain_ids
from unionfs.image.store import Store
from unionfs.image.summary import moment


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of an image's history."""

    id: Digest | None
    """The image of which it is the last step, where the store has that."""
    created: datetime | None
    created_by: str
    size: int
    """Bytes in the files of its layer, as Docker counts; 0 where it made none."""
    comment: str
    tags: tuple[str, ...] = ()


def steps(store: Store, image: Image) -> list[Step]:
    """The steps, the last one first. Raises ImageError where the image's documents cannot be read.

    Layers that the history does not tell of are its first steps.
    """
    manifest = find.manifest_of(store, image.manifest)
    config = find.config_of(store, manifest)
    sizes = []
    for descriptor, chain in zip(manifest.layers, chain_ids(config.diff_ids), strict=True):
        layer = find_layer(store, chain)
        sizes.append(descriptor.size if layer is None else layer.size)
    recorded = config.history or []
    without_entry = max(len(sizes) - sum(not each.empty_layer for each in recorded), 0)
    entries = [*[History()] * without_entry, *recorded]
    ids = {without_entry + count: digest for count, digest in built_on(store, config).items()}
    ids[len(entries)] = manifest.config.id
    tags = tuple(tag.familiar for tag in image.tags)
    found = []
    layer_sizes = iter(sizes)
    for number, entry in enumerate(entries, 1):
        found.append(
            Step(
                ids.get(number),
                moment(entry.created),
                entry.created_by or "",
                0 if entry.empty_layer else next(layer_sizes, 0),
                entry.comment or "",
                tags if number == len(entries) else (),
            )
        )
    return found[::-1]


def built_on(store: Store, config: Config) -> dict[int, Digest]:
    """The images of the store with whose history and layers this one begins: their ids by their steps."""
    found: dict[int, Digest] = {}
    history, layers = config.history or [], config.diff_ids
    for other in index.images(store):
        try:
            manifest = find.manifest_of(store, other.manifest)
            below = find.config_of(store, manifest)
        except ImageError:
            continue  # it is being removed, or `check` tells of it
        earlier = below.history or []
        begins = history[: len(earlier)] == earlier and layers[: len(below.diff_ids)] == below.diff_ids
        if begins and 0 < len(earlier) < len(history):
            found.setdefault(len(earlier), manifest.config.id)
    return found
