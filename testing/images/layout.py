"""Images for tests, made byte by byte as OCI layout directories: nothing of unionfs is used."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from testing.images.entries import TarEntry, tar

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
REF_NAME = "org.opencontainers.image.ref.name"

CREATED = "2023-11-14T22:13:20Z"
"""When an image was made that says nothing else: `entries.TIME`."""

_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
_DOCKER_SUFFIX = {"none": "", "gzip": ".gzip", "zstd": ".zstd"}


def compressed(content: bytes, kind: str) -> bytes:
    """*kind*: none, gzip or zstd. The same bytes each time."""
    if kind == "gzip":
        return gzip.compress(content, 6, mtime=0)
    if kind == "zstd":
        return zstandard.ZstdCompressor(3).compress(content)
    return content


def digest(content: bytes) -> str:
    """Its sha256, as descriptors have it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def encode(document: object) -> bytes:
    """A document as JSON; every call with the same document gives the same bytes."""
    return msgspec.json.encode(document)


@dataclass(frozen=True, slots=True)
class Image:
    """An image's documents and layers, before they are stored anywhere."""

    config: bytes
    layers: list[bytes]
    """As tars; *blobs* as they are stored."""
    blobs: list[bytes]
    manifest: bytes
    media_type: str

    @property
    def id(self) -> str:
        """The digest of the config."""
        return digest(self.config)

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return digest(self.manifest)

    @property
    def descriptor(self) -> dict[str, Any]:
        """Of the manifest, for an index."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest)}


def image(
    layers: Sequence[Sequence[TarEntry] | bytes],
    config: Mapping[str, Any] | None = None,
    *,
    compression: str = "gzip",
    docker: bool = False,
    platform: tuple[str, str] = ("linux", "amd64"),
) -> Image:
    """An image in memory. A layer is its entries or a finished tar, from the lowest up.

    *config* is what a container runs (`Env`, `Cmd`, `Labels` ...). With *docker* its documents are of
    Docker's types and not of OCI's.
    """
    tars = [each if isinstance(each, bytes) else tar(each) for each in layers]
    blobs = [compressed(each, compression) for each in tars]
    document = {
        "created": CREATED,
        "architecture": platform[1],
        "os": platform[0],
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in tars]},
        "history": [
            {"created": CREATED, "created_by": f"layer {number}"} for number in range(1, len(tars) + 1)
        ],
    }
    encoded = encode(document)
    config_type = f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
    layer_type = (
        f"{DOCKER}.image.rootfs.diff.tar{_DOCKER_SUFFIX[compression]}"
        if docker
        else f"{OCI}.layer.v1.tar{_SUFFIX[compression]}"
    )
    media_type = f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor(config_type, encoded),
        "layers": [_descriptor(layer_type, each) for each in blobs],
    }
    return Image(encoded, tars, blobs, encode(manifest), media_type)


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def write_layout(target: Path, images: Mapping[str, Image]) -> Path:
    """An OCI layout directory with these images, by their names; returns *target*.

    A name is put into the index as it is given (`debian:12`); one image may have several, `""` is none.
    """
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (target / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    entries = []
    for name, each in images.items():
        for content in (each.manifest, each.config, *each.blobs):
            (blobs / digest(content).partition(":")[2]).write_bytes(content)
        entries.append(each.descriptor | ({"annotations": {REF_NAME: name}} if name else {}))
    (target / "index.json").write_bytes(
        encode({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": entries})
    )
    return target


def make_image(
    target: Path,
    layers: Sequence[Sequence[TarEntry] | bytes],
    config: Mapping[str, Any] | None = None,
    *,
    name: str = "image:latest",
    **rest: Any,
) -> Path:
    """An OCI layout directory with one image; *rest* as for `image`. Returns *target*."""
    return write_layout(target, {name: image(layers, config, **rest)})
