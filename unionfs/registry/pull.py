"""Pulling: an image from a registry into the store. What is there is not fetched; what comes is verified."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass

from unionfs.errors import ImageError, NotFoundError
from unionfs.image import blobs, find, index, platform
from unionfs.image.digest import Digest, Readable
from unionfs.image.index import Image
from unionfs.image.layers import MAX_LAYER_SIZE, ensure, layers_of
from unionfs.image.model import (
    MOST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Index,
    Manifest,
    Platform,
    decode_config,
    decode_manifest,
)
from unionfs.image.names import Reference
from unionfs.image.progress import SILENT, Observer
from unionfs.image.store import Store
from unionfs.registry import credentials
from unionfs.registry.client import Client
from unionfs.registry.connections import Options
from unionfs.registry.download import Download
from unionfs.registry.repository import Repository

_MOST_DEPTH = 3
"""How deep indexes may lie in indexes."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull has come to."""

    image: Image
    digest: Digest
    """The registry's for what was asked for: an index's where the image came by one."""
    is_new: bool
    """Whether anything has changed: the image by that name, or its layers."""


class Puller:
    """One repository's images into one store, by connections that they share."""

    def __init__(
        self, store: Store, reference: Reference, options: Options | None = None, observer: Observer = SILENT
    ) -> None:
        self._store = store
        self._name = reference
        self._observer = observer
        found = credentials.find(reference.registry, reference.repository)
        client = Client(reference.registry, options, found)
        self._repository = Repository(client, reference.repository)

    def tags(self) -> list[str]:
        """All tags of the repository."""
        return self._repository.tags()

    def open_blob(self, blob: Descriptor, offset: int) -> AbstractContextManager[Readable]:
        """An `image.layers.OpenLayer`: what is missing in the store, from this repository."""
        return Download(self._repository, blob, offset, self._observer)

    def pull(
        self, reference: Reference, wanted: Platform | None = None, *, max_layer_size: int = MAX_LAYER_SIZE
    ) -> Pulled:
        """An image of this repository: by its digest, or else its tag, or else `latest`.

        Of an index the image for *wanted*, by default the best for this machine. Raises NotFoundError where
        the registry has no such image, or none for the platform; ImageError for what does not match or is
        malformed.
        """
        reference = reference.tagged()
        with self._store.in_use():
            before = self._before(reference)
            top = self._top(reference, before)
            descriptor = self._manifest(top, wanted, reference.familiar)
            manifest = find.manifest_of(self._store, descriptor)
            config = self._config(manifest)
            if wanted is not None:
                self._check(config, wanted, reference.familiar)
            is_same = before is not None and before.manifest.digest == descriptor.digest
            is_new = not (is_same and _has_layers(self._store, config))
            observer = self._observer if is_new else SILENT
            for layer in manifest.layers:
                observer.report(layer.id, "waiting", 0, layer.size)
            ensure(self._store, manifest, config, self.open_blob, observer, max_layer_size=max_layer_size)
            tag = Reference(reference.registry, reference.repository, reference.tag)
            known = _by_digest(reference, top.id)
            if is_new or (before is not None and known not in before.repo_digests):
                index.add(self._store, descriptor, tag if reference.digest is None else None, known)
            return Pulled(_image(self._store, descriptor), top.id, is_new)

    def _before(self, reference: Reference) -> Image | None:
        """The image that has the name now."""
        for each in index.images(self._store):
            if reference.digest is None:
                if reference in each.tags:
                    return each
            elif _by_digest(reference, reference.digest) in each.repo_digests:
                return each
        return None

    def _top(self, reference: Reference, before: Image | None) -> Descriptor:
        """What the name means: a manifest or an index, which then is in the store."""
        name = reference.digest or reference.tag
        assert name is not None
        digest = reference.digest
        # A HEAD: registries count what they send. It also says whether the repository has that digest.
        if digest is None and before is not None:
            digest = self._repository.digest_of(name)
        elif digest is not None and before is None and blobs.has(self._store, digest):
            self._repository.digest_of(name)
        if digest is not None and blobs.has(self._store, digest):
            return self._known(digest)
        document = self._repository.document(name)
        what = f"{reference.familiar}: manifest {document.digest}"
        found = decode_manifest(document.content, document.media_type, what)
        kind = found.media_type or document.media_type or _guess(found)
        described = Descriptor(kind, document.digest, len(document.content))
        blobs.put(self._store, io.BytesIO(document.content), described, what)
        return described

    def _known(self, digest: Digest) -> Descriptor:
        """A manifest or an index of the store, of which only the digest is known."""
        size = blobs.path_of(self._store, digest).stat().st_size
        content = blobs.read_small(self._store, Descriptor("", digest, size), f"manifest {digest}")
        found = decode_manifest(content, None, f"manifest {digest}")
        return Descriptor(found.media_type or _guess(found), digest, size)

    def _manifest(self, top: Descriptor, wanted: Platform | None, what: str) -> Descriptor:
        """The manifest of one image: itself, or the one for the platform, through indexes."""
        found = top
        for _ in range(_MOST_DEPTH):
            name = f"{what}: manifest {found.digest}"
            content = blobs.read_small(self._store, found, name)
            document = decode_manifest(content, found.media_type, name)
            if not isinstance(document, Index):
                return Descriptor(found.media_type, found.digest, found.size, platform=found.platform)
            found = platform.choose(document.manifests, wanted, what)
            if not blobs.has(self._store, found.id):
                self._fetch_manifest(found, what)
        raise ImageError(
            f"{what}: an index in an index of an index, where at most {_MOST_DEPTH - 1} are followed"
        )

    def _fetch_manifest(self, descriptor: Descriptor, what: str) -> None:
        what = f"{what}: manifest {descriptor.digest}"
        if descriptor.size > MOST_BYTES:
            raise ImageError(f"{what}: {descriptor.size} bytes, where at most {MOST_BYTES} are read")
        document = self._repository.document(descriptor.digest)
        decode_manifest(document.content, descriptor.media_type, what)
        blobs.put(self._store, io.BytesIO(document.content), descriptor, what)

    def _config(self, manifest: Manifest) -> Config:
        described = manifest.config
        what = self._repository.about(described)
        if described.size > MOST_BYTES:
            raise ImageError(
                f"{what}: a config of {described.size} bytes, where at most {MOST_BYTES} are read"
            )
        if not blobs.has(self._store, described.id):
            with self.open_blob(described, 0) as source:
                blobs.put(self._store, source, described, what)
        return decode_config(blobs.read_small(self._store, described, what), manifest, what)

    def _check(self, config: Config, wanted: Platform, what: str) -> None:
        """Where no index has the choice, the config says what the image is for."""
        only = Descriptor(OCI_MANIFEST, "", 0, platform=config.platform)
        platform.choose([only], wanted, what)


def pull(
    store: Store,
    reference: Reference,
    wanted: Platform | None = None,
    options: Options | None = None,
    observer: Observer = SILENT,
    *,
    max_layer_size: int = MAX_LAYER_SIZE,
) -> Pulled:
    """Pull one image: see `Puller.pull`."""
    return Puller(store, reference, options, observer).pull(reference, wanted, max_layer_size=max_layer_size)


def _guess(document: Manifest | Index) -> str:
    """The media type of what does not say it: Docker's always do."""
    return OCI_INDEX if isinstance(document, Index) else OCI_MANIFEST


def _by_digest(reference: Reference, digest: Digest) -> Reference:
    return Reference(reference.registry, reference.repository, digest=digest)


def _has_layers(store: Store, config: Config) -> bool:
    try:
        layers_of(store, config)
    except NotFoundError:
        return False
    return True


def _image(store: Store, descriptor: Descriptor) -> Image:
    return next(each for each in index.images(store) if each.manifest.digest == descriptor.digest)
