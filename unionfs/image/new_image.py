"""Config and manifest of an image that is made here, from those of the image that it is built on.

What the base's config has and is not changed here stays, unknown fields among it. The new documents are
OCI's, also over an image of Docker's, whose layers have the same form under other names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from unionfs.errors import ImageError, OptionError
from unionfs.image import blobs, find, index, layers
from unionfs.image.digest import Digest, digest_of
from unionfs.image.index import Image
from unionfs.image.layer_blob import LayerBlob
from unionfs.image.model import (
    MOST_LAYERS,
    OCI_CONFIG,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Manifest,
    Platform,
    as_oci,
    decode,
    decode_config,
    decode_manifest,
    encode,
)
from unionfs.image.names import Reference
from unionfs.image.store import Store

SOURCE_DATE_EPOCH = "SOURCE_DATE_EPOCH"
"""Seconds since 1970: the time that is said in place of now (reproducible-builds.org)."""

_OF_THE_BASE_ALONE = ("container", "container_config", "docker_version", "id", "parent", "throwaway")
"""Fields of Docker's that tell how the base was made."""


@dataclass(frozen=True, slots=True)
class About:
    """What a new image says of itself."""

    created_by: str = ""
    """What has made the change: in a container its command."""
    author: str = ""
    message: str = ""
    config: Mapping[str, Any] | None = None
    """What its containers run, with the names of config.md; None: as the base."""
    now: int | None = field(default_factory=lambda: source_date_epoch())
    """When it was made, in seconds since 1970; None: at the time of day."""


@dataclass(frozen=True, slots=True)
class Base:
    """An image on which others are built."""

    manifest: Manifest
    config: Config
    document: Mapping[str, Any]
    """The config as it is."""


@dataclass(frozen=True, slots=True)
class Made:
    """An image that is in the store now."""

    image: Image
    id: Digest
    layers: int
    """How many of them are new."""


def source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH of the environment. Raises OptionError for what is no number."""
    text = os.environ.get(SOURCE_DATE_EPOCH)
    if not text:
        return None
    if not text.isdecimal() or int(text) > 253402300799:  # the end of the year 9999, as RFC 3339 has it
        raise OptionError(f"{SOURCE_DATE_EPOCH}={text[:100]}: seconds since 1970 are expected")
    return int(text)


def latest_mtime(epoch: int | None) -> int | None:
    """The latest mtime that a layer may have, in nanoseconds; None: any.

    The specification of SOURCE_DATE_EPOCH demands that for times that are specific to one execution.
    """
    return None if epoch is None else epoch * 1_000_000_000


def base_of(store: Store, image: Image) -> Base:
    """The documents of an image. Raises ImageError where they are missing or malformed."""
    manifest = find.manifest_of(store, image.manifest)
    what = f"config {manifest.config.digest}"
    content = blobs.read_small(store, manifest.config, what)
    return Base(manifest, decode_config(content, manifest, what), decode(content, dict, what))


def add(
    store: Store,
    base: Base | None,
    made: Sequence[LayerBlob | None],
    about: About,
    tag: Reference | None,
    platform: Platform,
) -> Made:
    """Store an image of the base's layers and the new ones, unpack these, and give it its name.

    None in *made* stands for a change without a layer. Without a base it is for *platform*. The caller holds
    `Store.in_use` since before the layers became blobs.
    """
    blob_of = [each for each in made if each is not None]
    document = _config(base, made, about, platform)
    config = encode(document)
    content = encode(_manifest(base, blob_of, config))
    manifest = decode_manifest(content, OCI_MANIFEST, "the new image")
    assert isinstance(manifest, Manifest)
    if len(manifest.layers) > MOST_LAYERS:
        raise ImageError(
            f"the new image has {len(manifest.layers)} layers, where at most {MOST_LAYERS} may be"
        )
    digest, _ = blobs.put_all(store, [content, config])
    described = Descriptor(OCI_MANIFEST, digest, len(content))
    layers.ensure(store, manifest, decode_config(config, manifest, "the new image"))
    index.add(store, described, tag, parent=None if base is None else base.manifest.config.digest)
    image = next(each for each in index.images(store) if each.manifest.digest == described.digest)
    return Made(image, manifest.config.id, len(blob_of))


def _config(
    base: Base | None, made: Sequence[LayerBlob | None], about: About, platform: Platform
) -> dict[str, Any]:
    if base is None:
        document: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
        if platform.variant:
            document["variant"] = platform.variant
        diff_ids: list[str] = []
    else:
        document = {key: value for key, value in base.document.items() if key not in _OF_THE_BASE_ALONE}
        diff_ids = list(base.config.rootfs.diff_ids)
    document["created"] = _time(about.now)
    document.pop("author", None)
    if about.author:
        document["author"] = about.author
    if about.config is not None:
        document["config"] = dict(about.config)
    document["rootfs"] = {
        "type": "layers",
        "diff_ids": [*diff_ids, *(each.diff_id for each in made if each is not None)],
    }
    entries = [_history(about, document["created"], is_empty=each is None) for each in made]
    document["history"] = [*(document.get("history") or ()), *entries]
    return document


def _history(about: About, created: str, *, is_empty: bool) -> dict[str, Any]:
    said = {"author": about.author, "created_by": about.created_by, "comment": about.message}
    entry: dict[str, Any] = {"created": created, **{key: value for key, value in said.items() if value}}
    return {**entry, "empty_layer": True} if is_empty else entry


def _manifest(base: Base | None, made: Sequence[LayerBlob], config: bytes) -> dict[str, Any]:
    below = [] if base is None else base.manifest.layers
    described = [msgspec.structs.replace(each, media_type=as_oci(each.media_type)) for each in below]
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, digest_of(config), len(config)),
        "layers": [*described, *(each.descriptor for each in made)],
    }


def _time(seconds: int | None) -> str:
    if seconds is None:
        return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
