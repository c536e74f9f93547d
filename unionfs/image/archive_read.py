"""The images that an archive or a layout directory describes: its documents, verified. Stores nothing.

Formats: OCI image layout 1.0 (image-layout.md), as a directory or a tar, and Docker's archive (`docker save`,
manifest.json), which has no manifests: they are made here, with OCI's media types, so that skopeo and umoci
find the image in the store. An archive that is both, as Docker's are since version 25, is read as a layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from unionfs.errors import ImageError, NotFoundError
from unionfs.image import names, platform
from unionfs.image.archive_members import Members, read_small
from unionfs.image.compression import kind_of
from unionfs.image.digest import Digest, Hasher, digest_of
from unionfs.image.index import REF_NAME, as_came
from unionfs.image.model import (
    INDEXES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Index,
    Manifest,
    Platform,
    decode,
    decode_config,
    decode_manifest,
    encode,
)

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation with the whole name, as Docker and containerd write it; ref.name may be a mere tag then."""

_LAYOUT = "oci-layout"
_INDEX = "index.json"
_DOCKER = "manifest.json"
_LEGACY = "repositories"
_MOST_DEPTH = 8
"""Of indexes in indexes."""
_BLOCK = 1 << 20


@dataclass(slots=True)
class Found:
    """An image in an archive. `places` has the name in the archive of each layer, by its blob's digest."""

    descriptor: Descriptor
    manifest: Manifest
    config: Config
    documents: Sequence[bytes]
    """Manifest and config, as they are stored."""
    places: Mapping[str, str]
    tags: list[names.Reference] = field(default_factory=list)
    manifest_is_made: bool = False
    """Whether the archive had none."""
    parent: str | None = None
    """The id of another image of the archive on which this one was committed, as that says."""


def images(members: Members, wanted: Platform | None) -> list[Found]:
    """The images of an archive, those of *wanted* where it has several of one name. Raises ImageError."""
    if members.size(_INDEX) is not None:
        found = _Layout(members, wanted).images()
    elif members.size(_DOCKER) is not None:
        found = _docker_images(members)
    elif members.size(_LEGACY) is not None:
        raise ImageError(
            f"{members.what}: saved by a Docker older than 1.10, without {_DOCKER}: save it by a newer one"
        )
    else:
        raise ImageError(
            f"{members.what}: neither an OCI layout nor a Docker archive: there is no {_INDEX} and no"
            f" {_DOCKER} in it (the tree of a root filesystem becomes an image by `pyunionfs import`)"
        )
    if not found:
        raise ImageError(f"{members.what}: there are no images in it")
    for each in found:
        for layer in each.manifest.layers:
            _check_size(members, each.places[layer.digest], layer)
    return found


def _check_size(members: Members, name: str, described: Descriptor) -> None:
    """Whether a blob is there, as large as it must be: before anything is stored."""
    size = members.size(name)
    if size is None:
        raise NotFoundError(
            f"{members.what}: the layer {described.digest} is missing: there is no {name[:300]!r}"
        )
    if size != described.size:
        raise ImageError(
            f"{members.what}: {name[:300]} has {size} bytes, where its descriptor says {described.size}"
        )


# ---- OCI


class _Layout:
    """An OCI layout."""

    def __init__(self, members: Members, wanted: Platform | None) -> None:
        self._members = members
        self._wanted = wanted

    def images(self) -> list[Found]:
        """Each image once, with all its names, in the order of the index."""
        self._check_version()
        what = f"{self._members.what}: {_INDEX}"
        index = decode_manifest(read_small(self._members, _INDEX), None, what)
        if not isinstance(index, Index):
            raise ImageError(f"{what}: no index, but the manifest of an image")
        found: dict[str, Found] = {}
        for name, entries in _by_name(as_came(index.manifests)).items():
            for entry in entries if name is None else [self._chosen(entries, what)]:
                for manifest in self._manifests(entry):
                    image = found.get(manifest.digest)
                    if image is None:
                        image = found[manifest.digest] = self._image(manifest)
                    if name is not None and name not in image.tags:
                        image.tags.append(name)
        return list(found.values())

    def _check_version(self) -> None:
        what = f"{self._members.what}: {_LAYOUT}"
        if self._members.size(_LAYOUT) is None:
            raise ImageError(f"{self._members.what}: there is no {_LAYOUT} in it, which says its version")
        version = decode(read_small(self._members, _LAYOUT), _LayoutVersion, what).version
        if version.partition(".")[0] != "1":
            raise ImageError(f"{what}: version {version[:50]!r}, where 1.0.0 is known")

    def _chosen(self, entries: list[Descriptor], what: str) -> Descriptor:
        """Of several with one name the one for the platform."""
        return entries[0] if len(entries) == 1 else platform.choose(entries, self._wanted, what)

    def _manifests(self, entry: Descriptor, above: tuple[str, ...] = ()) -> Iterator[Descriptor]:
        """The manifest that an entry leads to, through indexes: of each the one for the platform."""
        if entry.media_type not in INDEXES:
            yield entry
            return
        what = f"{self._members.what}: index {entry.digest}"
        if entry.digest in above or len(above) == _MOST_DEPTH:
            raise ImageError(f"{what}: in an index of an index, {len(above)} deep")
        index = decode_manifest(self._document(entry, what), entry.media_type, what)
        assert isinstance(index, Index)
        # Archives may have one platform of an index that names all.
        there = [each for each in index.manifests if self._members.size(_blob(each)) is not None]
        if len(there) == 1 and self._wanted is None:
            chosen = there[0]
        else:
            chosen = platform.choose(there or index.manifests, self._wanted, what)
        yield from self._manifests(chosen, (*above, entry.digest))

    def _image(self, descriptor: Descriptor) -> Found:
        what = f"{self._members.what}: manifest {descriptor.digest}"
        content = self._document(descriptor, what)
        manifest = decode_manifest(content, descriptor.media_type, what)
        if isinstance(manifest, Index):
            raise ImageError(f"{what}: an index, described as a manifest")
        what = f"{self._members.what}: config {manifest.config.digest}"
        encoded = self._document(manifest.config, what)
        return Found(
            Descriptor(
                descriptor.media_type, descriptor.digest, descriptor.size, platform=descriptor.platform
            ),
            manifest,
            decode_config(encoded, manifest, what),
            (content, encoded),
            {layer.digest: _blob(layer) for layer in manifest.layers},
        )

    def _document(self, descriptor: Descriptor, what: str) -> bytes:
        content = read_small(self._members, _blob(descriptor))
        _verify(content, descriptor, what)
        return content


class _LayoutVersion(msgspec.Struct):
    version: str = msgspec.field(name="imageLayoutVersion")


def _blob(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.id.algorithm}/{descriptor.id.hex}"


def _verify(content: bytes, descriptor: Descriptor, what: str) -> None:
    if len(content) != descriptor.size:
        raise ImageError(f"{what}: {len(content)} bytes, where its descriptor says {descriptor.size}")
    hasher = Hasher(descriptor.id.algorithm)
    hasher.update(content)
    if hasher.digest() != descriptor.id:
        raise ImageError(
            f"{what}: expected digest {descriptor.digest}, got {hasher.digest()}: nothing was stored"
        )


def _by_name(entries: Sequence[Descriptor]) -> dict[names.Reference | None, list[Descriptor]]:
    """The entries of each name; None: those without one, or with one that names no image."""
    found: dict[names.Reference | None, list[Descriptor]] = {}
    for entry in entries:
        found.setdefault(_name(entry.annotations), []).append(entry)
    return found


def _name(annotations: Mapping[str, str]) -> names.Reference | None:
    """An entry's name: containerd's, else the annotation of the specification, as podman takes it."""
    for key in (CONTAINERD_NAME, REF_NAME):
        text = annotations.get(key)
        if text:
            try:
                name = names.parse(text).tagged()
            except ImageError:
                continue
            if name.digest is None:
                return name
    return None


# ---- Docker


class _DockerImage(msgspec.Struct, rename="pascal"):
    """An element of manifest.json (moby, image/tarexport)."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None
    parent: str | None = None
    """The id of the image on which it was committed."""


class _Diffs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _DockerConfig(msgspec.Struct):
    """What of a config must be known before its manifest is made."""

    rootfs: _Diffs


def _docker_images(members: Members) -> list[Found]:
    what = f"{members.what}: {_DOCKER}"
    found: dict[str, Found] = {}
    for each in decode(read_small(members, _DOCKER), list[_DockerImage], what):
        image = _docker_image(members, each)
        image = found.setdefault(image.descriptor.digest, image)
        for text in each.repo_tags or []:
            tag = names.parse(text).tagged()
            if tag not in image.tags:
                image.tags.append(tag)
        image.parent = image.parent or each.parent
    by_id = {str(image.manifest.config.digest): image for image in found.values()}
    for image in found.values():
        if image.parent is not None and not _is_built_on(image, by_id.get(image.parent)):
            image.parent = None
    return list(found.values())


def _is_built_on(image: Found, parent: Found | None) -> bool:
    """Whether it can be so: as for Docker the parent is in the archive, and the image begins as it does."""
    if parent is None or parent is image:
        return False
    own, below = image.config, parent.config
    history, earlier = own.history or [], below.history or []
    return history[: len(earlier)] == earlier and own.diff_ids[: len(below.diff_ids)] == below.diff_ids


def _docker_image(members: Members, described: _DockerImage) -> Found:
    what = f"{members.what}: config {described.config[:300]}"
    config = read_small(members, described.config)
    diff_ids = decode(config, _DockerConfig, what).rootfs.diff_ids or []
    places = described.layers or []
    if len(diff_ids) != len(places):
        raise ImageError(f"{what}: names {len(diff_ids)} layers, where {_DOCKER} has {len(places)}")
    layers = [
        _docker_layer(members, name, Digest(diff_id)) for name, diff_id in zip(places, diff_ids, strict=True)
    ]
    document = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, digest_of(config), len(config)),
            "layers": layers,
        }
    )
    manifest = decode_manifest(document, OCI_MANIFEST, f"{members.what}: manifest")
    assert isinstance(manifest, Manifest)
    return Found(
        Descriptor(OCI_MANIFEST, digest_of(document), len(document)),
        manifest,
        decode_config(config, manifest, what),
        (document, config),
        {layer.digest: name for layer, name in zip(layers, places, strict=True)},
        manifest_is_made=True,
    )


def _docker_layer(members: Members, name: str, diff_id: Digest) -> Descriptor:
    """A layer's descriptor. A plain tar has its DiffID as its digest; one that is compressed is hashed."""
    size = members.size(name)
    if size is None:
        raise NotFoundError(f"{members.what}: the layer {diff_id} is missing: there is no {name[:300]!r}")
    with members.open(name) as source:
        kind = kind_of(source.read(6))
    if kind == "none":
        return Descriptor(OCI_LAYER, diff_id, size)
    hasher = Hasher()
    with members.open(name) as source:
        while block := source.read(_BLOCK):
            hasher.update(block)
    return Descriptor(f"{OCI_LAYER}+{kind}", hasher.digest(), size)
