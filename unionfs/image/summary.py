"""What a list of images says of each. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from unionfs.errors import ImageError
from unionfs.image import find, index
from unionfs.image.digest import Digest
from unionfs.image.index import Image
from unionfs.image.layer_record import find as find_layer
from unionfs.image.model import Config, Manifest, chain_ids
from unionfs.image.store import Store


@dataclass(frozen=True, slots=True)
class Summary:
    """One image in a list."""

    image: Image
    id: Digest
    """The config's digest, as in Docker."""
    created: datetime | None
    size: int
    """Bytes, as `size_of` counts them."""
    labels: Mapping[str, str]
    diff_ids: Sequence[Digest]

    @property
    def dangling(self) -> bool:
        """Whether it has no name at all, not by a registry's digest either."""
        return not self.image.tags and not self.image.repo_digests


def summaries(store: Store) -> tuple[list[Summary], list[ImageError]]:
    """All images, the newest first; and what is wrong with those whose documents are missing or broken."""
    found: list[Summary] = []
    problems: list[ImageError] = []
    for image in index.images(store):
        try:
            found.append(summary(store, image))
        except ImageError as error:
            # One that is being removed is no problem.
            if any(entry.digest == image.manifest.digest for entry in index.read(store)):
                problems.append(ImageError(f"image {image.shown}: {error}"))
    found.sort(key=lambda each: each.created.timestamp() if each.created else 0.0, reverse=True)
    return found, problems


def summary(store: Store, image: Image) -> Summary:
    """One image. Raises ImageError where its manifest or config cannot be read."""
    manifest = find.manifest_of(store, image.manifest)
    config = find.config_of(store, manifest)
    return Summary(
        image,
        manifest.config.id,
        moment(config.created),
        size_of(store, manifest, config),
        (config.config.labels if config.config is not None else None) or {},
        config.diff_ids,
    )


def size_of(store: Store, manifest: Manifest, config: Config) -> int:
    """Bytes of the files of all layers, as Docker counts; of a layer that is not unpacked its blob's."""
    total = 0
    for descriptor, chain in zip(manifest.layers, chain_ids(config.diff_ids), strict=True):
        layer = find_layer(store, chain)
        total += descriptor.size if layer is None else layer.size
    return total


def moment(text: str | None) -> datetime | None:
    """A time by RFC 3339, as configs have it; None for none, and for what is malformed."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def without_intermediate(images: Sequence[Summary]) -> list[Summary]:
    """The images that Docker lists by default.

    Not the nameless ones on which another image is built, nor further manifests of one that has a name.
    """
    below = {tuple(other.diff_ids[:length]) for other in images for length in range(1, len(other.diff_ids))}
    named = {each.id for each in images if not each.dangling}
    return [
        each
        for each in images
        if not each.dangling or (tuple(each.diff_ids) not in below and each.id not in named)
    ]
