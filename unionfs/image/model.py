"""Manifests, indexes and configs: their JSON, checked before anything of it is used.

Formats: OCI image-spec 1.1 and Docker's image manifest version 2, schema 2. Content keeps its bytes (its
digest is theirs): what is parsed here is for looking at. Fields that are unknown are ignored, and kept by
code that writes a changed copy, which starts from the whole document. Nothing here reads a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from unionfs.errors import ImageError
from unionfs.image.digest import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)

_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_LAYERS = {
    **{OCI_LAYER + end: kind for end, kind in {"": "none", "+gzip": "gzip", "+zstd": "zstd"}.items()},
    **{_OCI_FOREIGN + end: kind for end, kind in {"": "none", "+gzip": "gzip", "+zstd": "zstd"}.items()},
    **{DOCKER_LAYER + end: kind for end, kind in {"": "none", ".gzip": "gzip", ".zstd": "zstd"}.items()},
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "none",
}

_AS_OCI = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER + ".gzip": OCI_LAYER + "+gzip",
    DOCKER_LAYER + ".zstd": OCI_LAYER + "+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": _OCI_FOREIGN,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": _OCI_FOREIGN + "+gzip",
}

MOST_BYTES = 8 << 20
"""The largest manifest, index or config that is read, as containerd has it."""
MOST_LAYERS = 4096

_T = TypeVar("_T")


class Platform(msgspec.Struct, frozen=True):
    """What an image runs on (image-spec, image-index.md)."""

    architecture: str
    os: str
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What content is, where its digest leads to it (descriptor.md). `digest` is checked by `_checked`."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    urls: list[str] = []

    @property
    def id(self) -> Digest:
        """The digest, known to be valid."""
        return Digest(self.digest)

    @property
    def compression(self) -> str:
        """`none`, `gzip` or `zstd`, of a layer."""
        return _LAYERS[self.media_type]


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image: its config, and its layers from the lowest up."""

    schema_version: int
    config: Descriptor
    layers: list[Descriptor]
    media_type: str | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """Images of one name for several platforms."""

    schema_version: int
    manifests: list[Descriptor]
    media_type: str | None = None
    annotations: dict[str, str] = {}


class RuntimeConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """What a container of the image runs (config.md). null stands for what is empty, as Docker writes it."""

    user: str | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    volumes: dict[str, Any] | None = None
    exposed_ports: dict[str, Any] | None = None
    stop_signal: str | None = None
    hostname: str | None = None


class RootFs(msgspec.Struct, frozen=True):
    """The layers' content: the DiffIDs, from the lowest up."""

    type: str
    diff_ids: list[str]


class History(msgspec.Struct, frozen=True):
    """How a layer was made; `empty_layer` for an instruction that made none."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class Config(msgspec.Struct, frozen=True):
    """An image's config (config.md)."""

    architecture: str
    os: str
    rootfs: RootFs
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    config: RuntimeConfig | None = None
    history: list[History] | None = None

    @property
    def diff_ids(self) -> list[Digest]:
        """The DiffIDs, from the lowest layer up."""
        return [Digest(each) for each in self.rootfs.diff_ids]

    @property
    def platform(self) -> Platform:
        return Platform(self.architecture, self.os, self.variant)


def decode(content: bytes, kind: type[_T], what: str) -> _T:
    """A document as *kind*. Raises ImageError, with the place in it, for what is malformed."""
    if len(content) > MOST_BYTES:
        raise ImageError(f"{what}: {len(content)} bytes, where at most {MOST_BYTES} are read")
    try:
        # What a type leaves out is not looked at as closely: it is kept, and shown by `inspect`.
        msgspec.json.decode(content)
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{what}: malformed: {error}") from None


def encode(document: object) -> bytes:
    """A document as compact JSON, its keys in the order given."""
    return msgspec.json.encode(document, enc_hook=str)  # a Digest is a str, which msgspec takes only as such


def as_oci(media_type: str) -> str:
    """OCI's name for what Docker calls by another: the content has the same form."""
    return _AS_OCI.get(media_type, media_type)


def decode_manifest(content: bytes, media_type: str | None, what: str) -> Manifest | Index:
    """A manifest or an index, by its media type; where none is said, by what the document says of itself.

    Raises ImageError for schema 1, for what contradicts itself, and for descriptors that are not valid.
    """
    about = decode(content, _Kind, what)
    kind = about.media_type or media_type
    if kind is None:
        kind = OCI_INDEX if about.manifests is not None else OCI_MANIFEST
    if about.media_type and media_type and about.media_type != media_type:
        raise ImageError(
            f"{what}: says that it is {about.media_type[:200]!r}, but was described as {media_type[:200]!r}"
        )
    if about.schema_version == 1 or kind in SCHEMA1:
        raise ImageError(
            f"{what}: a manifest of schema version 1, which has no digests of its layers' content and is no"
            " longer served by registries: push the image again with a current tool"
        )
    if about.manifests is not None and about.layers is not None:
        raise ImageError(f"{what}: has both layers and manifests, so that it is read as either")
    if kind in INDEXES:
        index = decode(content, Index, what)
        _check(index.manifests, what)
        return index
    if kind not in MANIFESTS:
        raise ImageError(f"{what}: neither a manifest nor an index, but {kind[:200]!r}")
    manifest = decode(content, Manifest, what)
    _check([manifest.config, *manifest.layers], what)
    if len(manifest.layers) > MOST_LAYERS:
        raise ImageError(f"{what}: {len(manifest.layers)} layers, where at most {MOST_LAYERS} are read")
    for layer in manifest.layers:
        if layer.media_type not in _LAYERS:
            raise ImageError(
                f"{what}: a layer is {layer.media_type[:200]!r}, which is no layer of a filesystem"
            )
    if manifest.config.media_type not in CONFIGS:
        raise ImageError(
            f"{what}: its config is {manifest.config.media_type[:200]!r}: an artifact, and no image of a"
            " filesystem"
        )
    return manifest


class _Kind(msgspec.Struct, rename="camel"):
    """What tells one kind of document from another."""

    schema_version: int
    media_type: str | None = None
    manifests: list[Any] | None = None
    layers: list[Any] | None = None


def decode_config(content: bytes, manifest: Manifest, what: str) -> Config:
    """A config, which must have a DiffID for each layer of its manifest."""
    config = decode(content, Config, what)
    for each in config.rootfs.diff_ids:
        Digest(each)
    if config.rootfs.type != "layers" or len(config.rootfs.diff_ids) != len(manifest.layers):
        raise ImageError(
            f"{what}: names {len(config.rootfs.diff_ids)} layers, where its manifest has"
            f" {len(manifest.layers)}"
        )
    return config


def _check(descriptors: Sequence[Descriptor], what: str) -> None:
    for each in descriptors:
        Digest(each.digest)
        if each.size < 0:
            raise ImageError(f"{what}: {each.digest} has a size of {each.size}")


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The ChainID of each layer, from the lowest up (config.md, Layer ChainID)."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        if not chains:
            chains.append(diff_id)
        else:
            joined = hashlib.sha256(f"{chains[-1]} {diff_id}".encode()).hexdigest()
            chains.append(Digest("sha256:" + joined))
    return chains
