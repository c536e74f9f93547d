"""Images into archives and layout directories, in the forms that Docker, podman, skopeo and containerd read.

The same images give the same bytes. What is written is verified as it is read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unionfs.errors import ImageError
from unionfs.image import blobs, find, index, names, oci_form
from unionfs.image.archive_read import CONTAINERD_NAME
from unionfs.image.archive_tar import ArchiveTar
from unionfs.image.digest import Digest, Readable, VerifyingReader, digest_of
from unionfs.image.index import REF_NAME, Image
from unionfs.image.layer_tar import open_tar
from unionfs.image.model import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    chain_ids,
    decode,
    encode,
)
from unionfs.image.names import Reference
from unionfs.image.store import Store, remove_tree
from unionfs.linux import process

_BLOCK = 1 << 20
LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'


@dataclass(slots=True)
class Chosen:
    """An image to be saved, and the names with which it is."""

    image: Image
    tags: list[Reference] = field(default_factory=list)


def choose(store: Store, texts: Sequence[str]) -> list[Chosen]:
    """The images that a user means, each once. Raises NotFoundError.

    As in Docker a name without a tag stands for all its tags, and an id for an image without a name.
    """
    found: dict[str, Chosen] = {}
    every = index.images(store)
    for text in texts:
        for image, tags in _meant(store, every, text):
            chosen = found.setdefault(image.manifest.digest, Chosen(image))
            chosen.tags += [tag for tag in tags if tag not in chosen.tags]
    return list(found.values())


def _meant(store: Store, every: Sequence[Image], text: str) -> list[tuple[Image, list[Reference]]]:
    try:
        wanted = names.parse(text)
    except ImageError:
        wanted = None  # an id
    if wanted is not None and wanted.digest is None:
        tags = [
            (image, [tag for tag in image.tags if tag.name == wanted.name and wanted.tag in (None, tag.tag)])
            for image in every
        ]
        named = [(image, found) for image, found in tags if found]
        if named:
            return named
    return [(find.resolve(store, text), [])]


class _Sink(Protocol):
    """Where files go: an archive or a directory."""

    def add(self, name: str, source: Readable, size: int) -> None: ...

    def add_bytes(self, name: str, content: bytes) -> None: ...


def save_docker(store: Store, chosen: Sequence[Chosen], fd: int) -> None:
    """As `docker save`: manifest.json, configs, and layers uncompressed, as Docker has them in its store."""
    archive = ArchiveTar(fd)
    documents = [_Documents(store, each.image) for each in chosen]
    configs = {f"{each.manifest.config.id.hex}.json": each.config for each in documents}
    ids = {each.manifest.config.digest for each in documents}
    described = [
        {
            "Config": f"{each.manifest.config.id.hex}.json",
            "RepoTags": [str(tag) for tag in image.tags] or None,
            "Layers": [f"{diff_id.hex}.tar" for diff_id in each.diff_ids],
            # As Docker has it: of an image that is in the archive, too.
            **({"Parent": image.image.parent} if image.image.parent in ids else {}),
        }
        for image, each in zip(chosen, documents, strict=True)
    ]
    # First what says how to read the rest: so a reader can do it in one pass.
    archive.add_bytes("manifest.json", encode(described))
    for name, content in configs.items():
        archive.add_bytes(name, content)
    written: set[Digest] = set()
    for each in documents:
        for layer, diff_id, chain in each.layers():
            if diff_id in written:
                continue
            written.add(diff_id)
            with open_tar(store, layer, diff_id, chain) as tar:
                archive.add(f"{diff_id.hex}.tar", tar, None if archive.is_seekable else tar.size())
    archive.finish()


def save_oci(store: Store, chosen: Sequence[Chosen], fd: int) -> list[Digest]:
    """As an OCI layout in a tar. Returns the layers whose blobs were made anew (`_save_layout`)."""
    archive = ArchiveTar(fd)
    anew = _save_layout(store, chosen, archive)
    archive.finish()
    return anew


def save_directory(store: Store, chosen: Sequence[Chosen], target: Path) -> list[Digest]:
    """As an OCI layout in the directory *target*, which appears whole. Else as `save_oci`."""
    with beside(target) as place:
        place.mkdir()
        anew = _save_layout(store, chosen, _Directory(place))
        place.chmod(0o777 & ~process.umask())
        # An empty directory may be there already.
        os.rename(place, target)
    return anew


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A name beside *target* for what is half; what has it at the end is removed."""
    place = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        yield place
    finally:
        remove_tree(place)


class _Directory:
    """The files of a layout directory."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def add(self, name: str, source: Readable, size: int) -> None:
        path = self._place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while block := source.read(_BLOCK):
                file.write(block)

    def add_bytes(self, name: str, content: bytes) -> None:
        self.add(name, io.BytesIO(content), len(content))


class _Documents:
    """An image's documents, and what is known of its layers."""

    def __init__(self, store: Store, image: Image) -> None:
        self.descriptor = image.manifest
        what = f"manifest {self.descriptor.digest}"
        self._manifest = blobs.read_small(store, self.descriptor, what)
        self.manifest = find.manifest_of(store, self.descriptor)
        self.config = blobs.read_small(store, self.manifest.config, f"config {self.manifest.config.digest}")
        self.diff_ids = find.config_of(store, self.manifest).diff_ids

    def as_oci(self, replaced: Mapping[int, Descriptor]) -> bytes:
        """The manifest with OCI's media types, since skopeo, podman and umoci find no others in a layout, and
        with other descriptors of some layers. One in which nothing is to be changed keeps its bytes."""
        media_type = self.descriptor.media_type
        document = oci_form.document(self._manifest, media_type, "manifest")
        if document is None and not replaced:
            return self._manifest
        if document is None:
            document = decode(self._manifest, dict[str, Any], "manifest")
        for number, other in replaced.items():
            document["layers"][number] = other
        return encode(document)

    def layers(self) -> Iterator[tuple[Descriptor, Digest, Digest]]:
        """Descriptor, DiffID and ChainID of each, from the lowest up."""
        return zip(self.manifest.layers, self.diff_ids, chain_ids(self.diff_ids), strict=True)


def _save_layout(store: Store, chosen: Sequence[Chosen], sink: _Sink) -> list[Digest]:
    """An OCI layout. Returns the DiffIDs of the layers whose blobs `prune --blobs` had freed.

    Such a layer is written uncompressed: the image has the same id, and its manifest another digest.
    """
    entries: list[dict[str, Any]] = []
    small: dict[Digest, bytes] = {}
    large: dict[Digest, tuple[Descriptor, Readable]] = {}
    anew: dict[Digest, Descriptor] = {}
    with ExitStack() as stack:
        for each in chosen:
            documents = _Documents(store, each.image)
            replaced: dict[int, Descriptor] = {}
            for number, (layer, diff_id, chain) in enumerate(documents.layers()):
                if blobs.has(store, layer.id):
                    large[layer.id] = (layer, _Blob(store, layer))
                    continue
                if diff_id not in anew:
                    tar = stack.enter_context(open_tar(store, layer, diff_id, chain))
                    anew[diff_id] = Descriptor(OCI_LAYER, diff_id, tar.size())
                    large[diff_id] = (anew[diff_id], tar)
                replaced[number] = anew[diff_id]
            content = documents.as_oci(replaced)
            small[digest_of(content)] = content
            small[documents.manifest.config.id] = documents.config
            entries += _entries(each.tags, content)
        sink.add_bytes("oci-layout", LAYOUT)
        sink.add_bytes(
            "index.json", encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        )
        for digest, content in small.items():
            sink.add_bytes(_path(digest), content)
        for digest, (layer, source) in large.items():
            sink.add(_path(digest), source, layer.size)
    return list(anew)


def _entries(tags: Sequence[Reference], manifest: bytes) -> list[dict[str, Any]]:
    """An image's entries in index.json: one for each name, or one without."""
    descriptor = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
    named = [{"annotations": {CONTAINERD_NAME: str(tag), REF_NAME: str(tag)}} for tag in tags]
    return [{**descriptor, **annotations} for annotations in named or [{}]]


class _Blob:
    """A blob of the store, verified as it is read; it is open from the first byte to the last."""

    def __init__(self, store: Store, layer: Descriptor) -> None:
        self._blocks = self._read(store, layer)

    def _read(self, store: Store, layer: Descriptor) -> Iterator[bytes]:
        what = f"layer {layer.digest}"
        with blobs.open_blob(store, layer.id, what) as file:
            source = VerifyingReader(file, layer.id, layer.size, what)
            yield from iter(lambda: source.read(_BLOCK), b"")

    def read(self, size: int, /) -> bytes:
        return next(self._blocks, b"")


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"
