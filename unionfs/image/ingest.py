"""One layer gets its place in the store: its tree, its layer.json, and its blob. Killed at any instant, the
place is empty or has the whole.

What is claimed in ingest/, in this order; the names are of digests:

    layer-CHAIN     the layer, until it has its place. Held while the layers below are waited for
    tree-DIFFID     its tree, until it has its place
    blob-DIGEST     the download, which may be continued: `data` in it stays if the download breaks

What is whole is held until it is on disk (`Pending`), so that one syncfs(2) may do for many layers. Images
have their layers in any order, and only ChainIDs have one order: so that two commands never wait for each
other, `before_waiting` gives what is held its place, before anything is waited for.

One layer is unpacked at a time, from the lowest up, and others are fetched meanwhile. Threads that all make
files compete for the interpreter lock: three took half again as long as one, and thrice the system time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec.structs import replace

from unionfs.errors import ImageError
from unionfs.image import blobs
from unionfs.image.digest import Digest, Readable, VerifyingReader
from unionfs.image.download import Download, OpenLayer
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import (
    DIFF,
    RECORD,
    TREE_RECORD,
    Layer,
    Record,
    find,
    folder_of,
    read,
    tree_of,
)
from unionfs.image.lowers import is_mounted
from unionfs.image.model import Descriptor, encode
from unionfs.image.one_pass import Stages, one_pass, read_all
from unionfs.image.progress import Observer, State
from unionfs.image.store import Store, clear, remove_tree
from unionfs.image.tree_digest import tree_digest
from unionfs.image.unpack import Unpacked

_T = TypeVar("_T")

SMALL = 1 << 20
"""Bytes of a blob for which no fsync(2) of its own is worth while: it is synced with its layer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all layers of one call."""

    store: Store
    open_layer: OpenLayer
    observer: Observer
    form: LayerForm
    keep_blobs: bool
    max_layer_size: int


class Below(Protocol):
    """The layers below one, which may still be being made."""

    def are_there(self) -> bool:
        """Whether `trees` would not wait."""

    def trees(self) -> Sequence[Path]:
        """Their trees, topmost first, once all are there."""


@dataclass(frozen=True, slots=True)
class MadeTree:
    """The tree of a layer that is made here, unpacked from what its blob is made of; it may be moved away."""

    tree: Path
    """The directory that holds `diff`, on the store's filesystem."""
    unpacked: Unpacked


@dataclass(slots=True)
class Pending:
    """A layer that is whole in ingest/, and not known to be on disk. Ends with `publish` or `discard`."""

    ingest: Ingest
    record: Record
    place: Path
    part: Path | None
    """Its blob, where that came with it."""
    is_new: bool
    """Whether its tree is here; else it has its place already."""
    claims: ExitStack

    @property
    def path(self) -> Path:
        """Where its tree is now."""
        made = self.place / "tree" if self.is_new else tree_of(self.ingest.settings.store, self.record)
        return made / DIFF

    def publish(self) -> Layer:
        """Give it its place. It must be on disk."""
        ingest = self.ingest
        store = ingest.settings.store
        with self.claims:
            if self.part is not None:
                os.rename(self.part, blobs.path_of(store, ingest.blob.id))
            if self.is_new:
                _move(self.place / "tree", tree_of(store, self.record), self.place)
            _move(self.place / "layer", folder_of(store, ingest.chain), self.place)
            ingest.report("done")
            ingest.has_made = True
        layer = find(store, ingest.chain)
        if layer is None:
            raise ImageError(f"layer {ingest.diff_id}: removed from {store.root} as soon as it was there")
        return layer

    def discard(self) -> None:
        """Remove it."""
        self.claims.close()


@dataclass(slots=True)
class Ingest:
    """The making of one layer, by one thread. `stages.stop` ends it from another."""

    settings: Settings
    blob: Descriptor
    diff_id: Digest
    chain: Digest
    parent: Digest | None
    below: Below
    before_waiting: Callable[[], None]
    """Is called while another process makes the same, and before a long download; raises to give up."""
    made: MadeTree | None = None
    stages: Stages = field(default_factory=Stages)
    has_made: bool = False
    _has_fetched: bool = False
    """Whether the blob has come before it was the layer's turn: one that is no layer is to go again."""

    def run(self) -> Layer | Pending:
        """The layer, made unless it is there. Raises ImageError, BrokenDownloadError or OSError."""
        store = self.settings.store
        layer = self._found()
        if layer is not None:
            return layer
        self.report("waiting")
        with ExitStack() as claims:
            place = claims.enter_context(store.claim(f"layer-{self.chain.hex}", self.before_waiting))
            layer = self._found()
            if layer is not None:
                return layer
            clear(place)
            claims.callback(clear, place)
            return self._make(place, claims)

    def _found(self) -> Layer | None:
        layer = find(self.settings.store, self.chain)
        if layer is not None:
            self._check_form(layer.record)
            self.report("exists")
        return layer

    def _make(self, place: Path, claims: ExitStack) -> Pending:
        store = self.settings.store
        if not self.below.are_there() and self.settings.keep_blobs and self._shared() is None:
            self._fetch_ahead()
        self.below.trees()
        claims.enter_context(store.claim(f"tree-{self.diff_id.hex}", self.before_waiting))
        record, part = self._shared(), None
        is_new = record is None
        if record is None:
            record, part = self._unpack(place, claims)
        else:
            self.report("exists")
            _write_layer(place, record)
        return Pending(self, record, place, part, is_new, claims.pop_all())

    def _shared(self) -> Record | None:
        """What another layer of this DiffID has unpacked."""
        place = self.settings.store.trees / self.diff_id.hex
        record = read(place / TREE_RECORD)
        if record is None or record.depends or record.diff_id != self.diff_id or not (place / DIFF).is_dir():
            return None
        self._check_form(record)
        return replace(record, parent=self.parent, content=None)

    def _fetch_ahead(self) -> None:
        """Have the blob here: a small one as a download that is complete, others in the store."""
        store, blob = self.settings.store, self.blob.id
        if blobs.has(store, blob):
            return
        with store.claim(f"blob-{blob.hex}", self.before_waiting) as claimed:
            if not blobs.has(store, blob):
                part = claimed / "data"
                self._fetch(part, lambda source, interrupt: read_all(source, interrupt, self.stages))
                if self.blob.size > SMALL:
                    blobs.publish(store, part, blob)
                    self._has_fetched = True

    def _unpack(self, place: Path, claims: ExitStack) -> tuple[Record, Path | None]:
        """Leave `tree` and `layer` in *place*, and the blob in the store, or where the path says.

        Of what was made here, the maker gives the blob its place.
        """
        settings = self.settings
        if self.made is not None:
            os.rename(self.made.tree, place / "tree")
            return self._record(place, self.made.unpacked), None

        def use(source: Readable, interrupt: Callable[[], None]) -> Record:
            return self._pass(place, source, interrupt)

        if self.blob.size > SMALL:
            self.before_waiting()
        if not blobs.has(settings.store, self.blob.id):
            if not settings.keep_blobs:
                return self._fetch(None, use), None
            name = f"blob-{self.blob.id.hex}"
            claimed = claims.enter_context(settings.store.claim(name, self.before_waiting))
            if not blobs.has(settings.store, self.blob.id):
                part = claimed / "data"
                return self._fetch(part, use), part
        try:
            with blobs.open_blob(settings.store, self.blob.id, f"layer {self.blob.id}") as file:
                return self._pass(place, _Counted(file, self.blob, settings.observer), lambda: None), None
        except ImageError:
            if self._has_fetched:
                blobs.path_of(settings.store, self.blob.id).unlink(missing_ok=True)
            raise

    def _fetch(self, part: Path | None, use: Callable[[Readable, Callable[[], None]], _T]) -> _T:
        """What *use* makes of what the source gives; it gets what ends a read, too.

        The part of a download that broke stays, a wrong one does not.
        """
        while True:
            with Download(self.blob, self.settings.open_layer, part, self.settings.observer) as download:
                source = VerifyingReader(download, self.blob.id, self.blob.size, f"layer {self.blob.id}")
                try:
                    return use(source, download.interrupt)
                except ImageError:
                    if part is not None:
                        part.unlink()
                    if source.is_verified or not download.resumed:
                        raise
                    # What was left was wrong, as it may be after a crash of the machine: from the beginning.
                finally:
                    if part is not None and part.exists() and part.stat().st_size == 0:
                        part.unlink()

    def _pass(self, place: Path, source: Readable, interrupt: Callable[[], None]) -> Record:
        settings = self.settings

        target = place / "tree" / DIFF
        if target.parent.exists():
            remove_tree(target.parent)
        target.mkdir(parents=True)
        unpacked = one_pass(
            source,
            interrupt,
            self.blob.id,
            self.diff_id,
            target,
            self.below.trees,
            settings.form,
            settings.max_layer_size,
            self.stages,
        )
        return self._record(place, unpacked)

    def _record(self, place: Path, unpacked: Unpacked) -> Record:
        """Write what is known of the tree in *place*."""
        settings = self.settings
        record = Record(
            self.diff_id,
            self.chain.hex if unpacked.depends else self.diff_id.hex,
            unpacked.size,
            unpacked.entries,
            settings.form.name,
            self.blob.id,
            self.blob.size,
            self.parent,
            unpacked.depends,
        )
        if unpacked.left_out:
            names = ", ".join(f"{name} ({count})" for name, count in sorted(unpacked.left_out.items()))
            settings.observer.remark(
                self.blob.id, f"extended attributes that this store cannot hold: {names}"
            )
        # Without a blob there will be nothing else to compare the tree with.
        content = None if settings.keep_blobs else tree_digest(place / "tree" / DIFF)
        (place / "tree" / TREE_RECORD).write_bytes(encode(replace(record, content=content)))
        _write_layer(place, record)
        return record

    def _check_form(self, record: Record) -> None:
        if record.form != self.settings.form.name:
            raise ImageError(
                f"layer {record.diff_id} is unpacked in {self.settings.store.root} in the form"
                f" {record.form}, and is needed in the form {self.settings.form.name}: use another --store"
            )

    def report(self, state: State) -> None:
        self.settings.observer.report(self.blob.id, state, 0, self.blob.size)


class _Counted:
    """A blob of the store, verified when it entered; the DiffID says whether it is still the same."""

    def __init__(self, source: Readable, blob: Descriptor, observer: Observer) -> None:
        self._source = source
        self._blob = blob
        self._observer = observer
        self._done = 0

    def read(self, size: int, /) -> bytes:
        block = self._source.read(size)
        self._done += len(block)
        self._observer.report(self._blob.id, "extracting", self._done, self._blob.size)
        return block


def _write_layer(place: Path, record: Record) -> None:
    folder = place / "layer"
    folder.mkdir()
    (folder / RECORD).write_bytes(encode(record))
    (folder / DIFF).symlink_to(Path("../../trees", record.tree, DIFF))


def _move(made: Path, target: Path, place: Path) -> None:
    """Give what was made its place. What is there is damaged (`find` and `_shared` have not taken it)."""
    if target.exists():
        if (target / DIFF).is_dir() and not (target / DIFF).is_symlink() and is_mounted(target / DIFF):
            raise ImageError(f"{target} is damaged, and a mount has it: unmount that, and try again")
        os.rename(target, place / f"damaged-{target.name}")
    os.rename(made, target)
