"""Pushing: an image of the store to a registry, byte for byte as it was pulled or made.

Blobs first, several at a time, the manifest last, so that a registry never has a name for half an image.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass

from unionfs.errors import ImageError, NotFoundError, OptionError
from unionfs.image import blobs, find, index
from unionfs.image.blobs import BlobFile
from unionfs.image.digest import Digest
from unionfs.image.index import Image
from unionfs.image.model import Descriptor
from unionfs.image.names import Reference
from unionfs.image.progress import SILENT, Observer
from unionfs.image.store import Store
from unionfs.registry import credentials
from unionfs.registry.client import Client
from unionfs.registry.connections import Options
from unionfs.registry.fetch import Fetcher
from unionfs.registry.repository import Repository
from unionfs.registry.upload import CHUNK, Sent, Upload

_THREADS = 4
_MOST_SOURCES = 3
"""Repositories from which a mount of one blob is tried."""

Finished = Callable[[Descriptor, Sent], None]
"""Called, by several threads, with a layer that is in the registry now, and how it got there."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the registry has now."""

    digest: Digest
    size: int
    """Bytes of the manifest, as Docker prints it."""


def push(
    store: Store,
    image: Image,
    target: Reference,
    options: Options | None = None,
    observer: Observer = SILENT,
    finished: Finished = lambda layer, sent: None,
    *,
    chunk: int = CHUNK,
) -> Pushed:
    """Send an image to *target*, `latest` where it has no tag.

    What the registry has is not sent. Raises NotFoundError for a layer that has to be sent and whose blob is
    not in the store, nor in a registry that is known to have the image; ImageError where the registry
    refuses.
    """
    if target.digest is not None:
        raise OptionError(f"push {target.familiar}: a digest is made by what is pushed: give a tag instead")
    target = target.tagged()
    with store.in_use():
        work = _Push(store, image, target, options, observer, chunk)
        return work.run(finished)


class _Push:
    def __init__(
        self,
        store: Store,
        image: Image,
        target: Reference,
        options: Options | None,
        observer: Observer,
        chunk: int,
    ) -> None:
        self._store = store
        self._image = image
        self._target = target
        self._fetch = Fetcher(options, observer)
        self._observer = observer
        self._chunk = chunk
        self._manifest = find.manifest_of(store, image.manifest)
        found = credentials.find(target.registry, target.repository)
        client = Client(target.registry, options, found)
        self._repository = Repository(client, target.repository, "pull,push")
        self._sources = _sources(store, target)

    def run(self, finished: Finished) -> Pushed:
        layers = {each.digest: each for each in self._manifest.layers if not _is_foreign(each)}
        for each in layers.values():
            self._observer.report(each.id, "waiting", 0, each.size)
        pool = ThreadPoolExecutor(_THREADS)
        try:
            works = {pool.submit(self._send, each): each for each in layers.values()}
            config = pool.submit(self._send, self._manifest.config)
            for work in as_completed(works):
                finished(works[work], work.result())
            config.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        described = self._image.manifest
        content = blobs.read_small(self._store, described, f"manifest {described.digest}")
        assert self._target.tag is not None
        self._repository.put_document(self._target.tag, content, described.media_type, described.id)
        known = Reference(self._target.registry, self._target.repository, digest=described.id)
        if known not in self._image.repo_digests:
            index.add(self._store, described, repo_digest=known)
        return Pushed(described.id, described.size)

    def _send(self, blob: Descriptor) -> Sent:
        upload = Upload(self._repository, blob, lambda: self._open(blob), self._observer, chunk=self._chunk)
        return upload.run(self._sources.get(blob.digest, [])[:_MOST_SOURCES])

    def _open(self, blob: Descriptor) -> AbstractContextManager[BlobFile]:
        """A blob of the store; one that `prune --blobs` has freed comes back from where the image is from."""
        if not blobs.has(self._store, blob.id):
            self._bring_back(blob)
        return blobs.open_blob(self._store, blob.id, f"blob {blob.digest}")

    def _bring_back(self, blob: Descriptor) -> None:
        tried = []
        for each in self._image.repo_digests:
            if each.name == self._target.name:
                continue
            try:
                with self._fetch(each, blob) as source:
                    blobs.put(self._store, source, blob, f"{each.name}: blob {blob.digest}")
                return
            except ImageError as error:
                tried.append(str(error))
        raise NotFoundError(
            f"push {self._target.familiar}: blob {blob.digest} has to be sent, but is not in the store"
            " (`prune --blobs` frees those of unpacked layers)"
            + (f"; {'; '.join(tried)}" if tried else "; no registry is known to have it")
            + ": load or pull the image into another --store, and push it from there"
        )


def _sources(store: Store, target: Reference) -> dict[str, list[str]]:
    """The blobs of layers that other repositories of the target's registry are known to have, and which."""
    found: dict[str, list[str]] = {}
    for image in index.images(store):
        repositories = [
            each.repository
            for each in image.repo_digests
            if each.registry == target.registry and each.repository != target.repository
        ]
        if not repositories:
            continue
        try:
            manifest = find.manifest_of(store, image.manifest)
        except ImageError:
            continue  # it is broken, and no reason not to push another one
        for blob in (manifest.config, *manifest.layers):
            known = found.setdefault(blob.digest, [])
            known.extend(each for each in repositories if each not in known)
    return found


def _is_foreign(layer: Descriptor) -> bool:
    """Whether a layer may not be distributed, but is fetched from its URLs (layer.md, Non-Distributable)."""
    return bool(layer.urls) and ("foreign" in layer.media_type or "nondistributable" in layer.media_type)
