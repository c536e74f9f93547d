"""The layers of an image, unpacked: the face of this folder for what mounts, runs or changes images.

`layers_of` gives what is there; `ensure` unpacks what is missing, several layers at a time; `add` takes one
that was made and unpacked here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from unionfs.errors import NotFoundError
from unionfs.image import blobs
from unionfs.image.digest import Digest, Readable
from unionfs.image.download import BrokenDownloadError, OpenLayer
from unionfs.image.ingest import Ingest, MadeTree, Pending, Settings
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import Layer, find, layers_of
from unionfs.image.model import Config, Descriptor, Manifest, chain_ids
from unionfs.image.progress import SILENT, Observer
from unionfs.image.read_ahead import StoppedError
from unionfs.image.store import Store, sync_directory, sync_filesystem

__all__ = ["Layer", "OpenLayer", "add", "ensure", "find", "from_store", "layers_of"]

MAX_LAYER_SIZE = 64 << 30
"""Bytes of a layer's tar, if nothing else is said."""
_WORKERS = 3
_PATIENCE = 2.0
"""Seconds."""
_MOST_PENDING = 32
"""Layers that are held for one sync: each has three descriptors open."""
_LONGEST_PENDING = 0.5
"""Seconds for which the first of them is held: other commands may wait for it, and a kill loses it."""


def from_store(layer: Descriptor, offset: int) -> AbstractContextManager[Readable]:
    """An `OpenLayer` for images all of whose blobs are in the store: raises NotFoundError."""
    raise NotFoundError(f"layer {layer.digest} is not in the store: pull or load its image again")


def ensure(
    store: Store,
    manifest: Manifest,
    config: Config,
    open_layer: OpenLayer = from_store,
    observer: Observer = SILENT,
    *,
    keep_blobs: bool = True,
    max_layer_size: int = MAX_LAYER_SIZE,
    form: LayerForm | None = None,
) -> list[Layer]:
    """The layers of an image, lowest first; those that are missing are unpacked.

    *open_layer* is called for what is neither unpacked nor a blob of the store; with *keep_blobs* what it
    gives becomes a blob, so that a push can send it. A layer that is unpacked is never fetched for its blob.
    *form* is that of the store if not given. The caller holds `Store.in_use` until the image can be found
    in the index.

    Everything is verified: blobs by digest and size, content by DiffID. Raises what *open_layer* raises,
    ImageError for what does not match or is malformed, OSError where the store cannot be written. The layers
    that were whole by then stay.
    """
    settings = Settings(
        store, open_layer, observer, form or LayerForm.of_store(store), keep_blobs, max_layer_size
    )
    return _Image(settings, manifest, config).run()


def add(
    store: Store,
    blob: Descriptor,
    part: Path,
    diff_id: Digest,
    below: Sequence[Digest],
    made: MadeTree,
    form: LayerForm,
) -> Layer:
    """Give a layer its place that was made here: its tree, and its blob, which is the file *part* in ingest/.

    *below* are the DiffIDs of those under it. What the store has already stays. Raises as `ensure`.
    """
    chains = chain_ids([*below, diff_id])
    settings = Settings(store, from_store, SILENT, form, keep_blobs=True, max_layer_size=MAX_LAYER_SIZE)
    parent = chains[-2] if below else None
    ingest = Ingest(settings, blob, diff_id, chains[-1], parent, _Nothing(), lambda: None, made)
    layer = ingest.run()
    if isinstance(layer, Pending):
        _sync_content(store, [layer])
        layer = layer.publish()
    if not blobs.has(store, blob.id):
        if not ingest.has_made:  # else the tree was synced with its whole filesystem, which has the blob, too
            blobs.sync_content(part)
        blobs.give_place(store, part, blob.id)
    _sync_names(store)
    return layer


def _sync_content(store: Store, pending: Sequence[Pending]) -> None:
    try:
        sync_filesystem(store.ingest)
    except BaseException:
        for each in pending:
            each.discard()
        raise


def _sync_names(store: Store) -> None:
    for folder in (store.blobs / "sha256", store.trees, store.layers):
        sync_directory(folder)


class _Nothing:
    """What is below one that is unpacked: nothing that is still looked at."""

    def are_there(self) -> bool:
        return True

    def trees(self) -> Sequence[Path]:
        return ()


class _Image:
    """The work on the layers of one image.

    Workers take the lowest layer that is not begun, fetch it, and wait for those below before they unpack it.
    Those are begun by then, so some worker always goes on.

    The lowest layer that is neither there nor pending has its turn: its worker alone unpacks, and gives
    pending layers their places, which moves their trees.
    """

    def __init__(self, settings: Settings, manifest: Manifest, config: Config) -> None:
        self._settings = settings
        chains = chain_ids(config.diff_ids)
        self._ingests = [
            Ingest(
                settings,
                blob,
                diff_id,
                chain,
                parent,
                _Below(self, number),
                partial(self._before_waiting, number),
            )
            for number, (blob, diff_id, chain, parent) in enumerate(
                zip(manifest.layers, config.diff_ids, chains, [None, *chains][: len(chains)], strict=True)
            )
        ]
        self._changed = threading.Condition()
        self._layers: list[Layer | Pending | None] = [None] * len(chains)  # guarded by _changed, as the next
        self._pending_since = 0.0  # of the layer that has its turn
        self._error: BaseException | None = None
        self._waiting = iter(range(len(chains)))  # likewise

    def run(self) -> list[Layer]:
        threads = [
            threading.Thread(target=self._work, name=f"layers-{number}", daemon=True)
            for number in range(min(_WORKERS, len(self._ingests)))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C
            self._stop(error)
            for thread in threads:
                thread.join(_PATIENCE)  # one that opens a connection may take its time: it makes nothing more
            for _, each in self._take_pending():
                each.discard()
            raise
        try:
            # What is whole stays, whatever else has failed.
            self._publish()
        except BaseException as error:
            self._stop(error)
        if self._error is not None:
            cause = self._error.__cause__ if isinstance(self._error, BrokenDownloadError) else None
            raise cause or self._error
        if any(each.has_made for each in self._ingests):
            _sync_names(self._settings.store)
        return [layer for layer in self._layers if isinstance(layer, Layer)]

    def _work(self) -> None:
        try:
            while (number := self._next()) is not None:
                layer = self._ingests[number].run()
                if isinstance(layer, Pending):
                    self._add_pending(number, layer)
                else:
                    self._set(number, layer)
        except BaseException as error:
            self._stop(error)

    def _add_pending(self, number: int, layer: Pending) -> None:
        """It is the turn of *number*."""
        now = time.monotonic()
        with self._changed:
            count = sum(isinstance(each, Pending) for each in self._layers)
        if not count:
            self._pending_since = now
        if count >= _MOST_PENDING or now - self._pending_since > _LONGEST_PENDING:
            self._publish((number, layer))
            return
        with self._changed:
            if self._error is None:
                self._layers[number] = layer
                self._changed.notify_all()
                return
        layer.discard()

    def _set(self, number: int, layer: Layer) -> None:
        with self._changed:
            self._layers[number] = layer
            self._changed.notify_all()

    def _take_pending(self) -> list[tuple[int, Pending]]:
        found: list[tuple[int, Pending]] = []
        with self._changed:
            for number, each in enumerate(self._layers):
                if isinstance(each, Pending):
                    found.append((number, each))
                    self._layers[number] = None
        return found

    def _publish(self, *more: tuple[int, Pending]) -> None:
        """Give pending layers their places: by the worker that has its turn, or after all of them."""
        pending = [*self._take_pending(), *more]
        if not pending:
            return
        _sync_content(self._settings.store, [each for _, each in pending])
        try:
            while pending:
                number, each = pending.pop(0)
                self._set(number, each.publish())
        finally:
            for _, each in pending:
                each.discard()

    def _before_waiting(self, number: int) -> None:
        with self._changed:
            if self._error is not None:
                raise StoppedError
            has_turn = None not in self._layers[:number]
        if has_turn:
            self._publish()

    def _next(self) -> int | None:
        with self._changed:
            return None if self._error is not None else next(self._waiting, None)

    def _stop(self, error: BaseException) -> None:
        """The first error counts: what comes after it is most often its consequence."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()
        for each in self._ingests:
            each.stages.stop()

    def are_there(self, count: int) -> bool:
        """Whether the lowest *count* layers are."""
        with self._changed:
            return None not in self._layers[:count]

    def wait_for(self, count: int) -> list[Path]:
        """The trees of the lowest *count* layers, topmost first, once they are there."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or None not in self._layers[:count])
            if self._error is not None:
                raise StoppedError
            return [layer.path for layer in reversed(self._layers[:count]) if layer is not None]


class _Below:
    def __init__(self, image: _Image, count: int) -> None:
        self._image = image
        self._count = count

    def are_there(self) -> bool:
        return self._image.are_there(self._count)

    def trees(self) -> Sequence[Path]:
        return self._image.wait_for(self._count)
