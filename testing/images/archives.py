"""Archives of images in the forms that other programs write, made byte by byte without unionfs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testing.images.entries import TarEntry, directory, file, symlink, tar
from testing.images.layout import OCI, Image, digest, encode

CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


def _hex(content: bytes) -> str:
    return digest(content).partition(":")[2]


def _described(images: Mapping[str, Image], layers: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {
            "Config": f"{_hex(each.config)}.json",
            "RepoTags": [name] if name else None,
            "Layers": layers[each.id],
        }
        for name, each in images.items()
    ]


def docker_old(images: Mapping[str, Image]) -> list[TarEntry]:
    """As Docker before 25: a directory a layer, symlinks for layers that came before, manifest.json last."""
    entries: list[TarEntry] = []
    seen: dict[bytes, str] = {}
    layers: dict[str, list[str]] = {}
    for each in {made.id: made for made in images.values()}.values():
        layers[each.id] = []
        for number, layer in enumerate(each.layers):
            name = _hex(f"{each.id} {number}".encode())
            entries += [directory(name + "/"), file(f"{name}/VERSION", b"1.0"), file(f"{name}/json", b"{}")]
            if layer in seen:
                entries.append(symlink(f"{name}/layer.tar", f"../{seen[layer]}/layer.tar"))
            else:
                entries.append(file(f"{name}/layer.tar", layer))
                seen[layer] = name
            layers[each.id].append(f"{name}/layer.tar")
        entries.append(file(f"{_hex(each.config)}.json", each.config))
    entries.append(file("manifest.json", encode(_described(images, layers))))
    entries.append(file("repositories", b"{}"))
    return entries


def docker_compressed(images: Mapping[str, Image]) -> list[TarEntry]:
    """As Bazel and Jib write it: manifest.json first, layers compressed."""
    layers = {
        each.id: [f"layers/{number}-{_hex(each.config)}.tar.gz" for number in range(len(each.blobs))]
        for each in images.values()
    }
    entries = [file("manifest.json", encode(_described(images, layers)))]
    for each in {made.id: made for made in images.values()}.values():
        entries.append(file(f"{_hex(each.config)}.json", each.config))
        entries += [file(name, blob) for name, blob in zip(layers[each.id], each.blobs, strict=True)]
    return entries


def oci(images: Mapping[str, Image], *, containerd: bool = False) -> list[TarEntry]:
    """As skopeo writes an oci-archive, index.json behind the blobs; or with containerd's names."""
    blobs: dict[str, bytes] = {}
    manifests = []
    for name, each in images.items():
        for content in (each.manifest, each.config, *each.blobs):
            blobs[f"blobs/sha256/{_hex(content)}"] = content
        annotations = (
            {CONTAINERD_NAME: name, REF_NAME: name.rpartition(":")[2]} if containerd else {REF_NAME: name}
        )
        manifests.append(each.descriptor | ({"annotations": annotations} if name else {}))
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
    return [
        directory("blobs/"),
        directory("blobs/sha256/"),
        *(file(name, content) for name, content in sorted(blobs.items())),
        file("index.json", encode(index)),
        file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
    ]


def docker_new(images: Mapping[str, Image]) -> list[TarEntry]:
    """As Docker from 25 on: an OCI layout that has a manifest.json, too."""
    layers = {each.id: [f"blobs/sha256/{_hex(blob)}" for blob in each.blobs] for each in images.values()}
    described = _described(images, layers)
    for entry, each in zip(described, images.values(), strict=True):
        entry["Config"] = f"blobs/sha256/{_hex(each.config)}"
    return [*oci(images, containerd=True), file("manifest.json", encode(described))]


FORMS = {
    "docker_old": docker_old,
    "docker_compressed": docker_compressed,
    "docker_new": docker_new,
    "oci": oci,
}


def archive(images: Mapping[str, Image], form: str) -> bytes:
    """An archive of these images by their names, in one of FORMS."""
    return tar(FORMS[form](images))
