"""Reading the whole store again: does everything still match its digest? And mending what can be mended.

- Blobs are hashed: manifests, indexes, configs and layers.
- Each image, and each container, has its manifest, its config, and its layers unpacked or as blobs.
- Unpacked layers are compared with what their blobs unpack to now (`tree_check.py`).

What is damaged is fetched or unpacked again, or removed where nothing is lost by that: the blob of a layer
that is unpacked, and the entry of an image whose manifest or config cannot be had any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from unionfs.errors import ImageError
from unionfs.image import blobs, find, index, layers, oci_form
from unionfs.image.digest import Digest, Hasher, Readable
from unionfs.image.in_use import containers
from unionfs.image.index import Image
from unionfs.image.layer_record import DIFF, TREE_RECORD, Layer, all_layers, chain_of, read, tree_of
from unionfs.image.layer_record import find as find_layer
from unionfs.image.model import INDEXES, OCI_LAYER, Config, Descriptor, Manifest, chain_ids
from unionfs.image.names import Reference
from unionfs.image.store import Store, remove_tree
from unionfs.image.tree_check import TreeCheck, note_content

_BLOCK = 1 << 20


class Fetch(Protocol):
    """Opens a manifest, a config or a layer of a registry's repository."""

    def __call__(self, repository: Reference, blob: Descriptor, /) -> AbstractContextManager[Readable]: ...


def fetch_nothing(repository: Reference, blob: Descriptor) -> AbstractContextManager[Readable]:
    """A `Fetch` where no registry may be asked."""
    raise ImageError("no registry was asked")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be."""

    what: str
    problem: str
    done: str = ""
    """What has mended it, or will not let it do harm; empty: nothing."""


@dataclass(slots=True)
class _Owner:
    """An image or a container, and its documents as far as they are sound."""

    what: str
    manifest: Descriptor
    repositories: Sequence[Reference]
    image: Image | None
    oci_form: Descriptor | None = None
    """The manifest's, where the list has one."""
    documents: tuple[Manifest, Config] | None = None

    def layers(self) -> list[tuple[Descriptor, Digest]]:
        """Blob and ChainID of each layer."""
        if self.documents is None:
            return []
        manifest, config = self.documents
        return [*zip(manifest.layers, chain_ids(config.diff_ids), strict=True)]


@dataclass(slots=True)
class Verification:
    """One reading of the store. The caller holds `Store.in_use`, and `Store.pruning` if it is to *mend*.

    *advance* is called with numbers of bytes that were read.
    """

    store: Store
    mend: bool = False
    fetch: Fetch = fetch_nothing
    advance: Callable[[int], object] = lambda count: None
    _bad: dict[Digest, Digest] = field(default_factory=dict)
    """Blobs that do not match, and their content's digest."""
    _removed: set[Digest] = field(default_factory=set)
    """Layers (ChainIDs) that were damaged, and are to be made again."""

    def run(self) -> Iterator[Finding]:
        """What is found, as it is found."""
        yield from self._hash_blobs()
        owners = self._owners()
        for owner in owners:
            yield from self._read_documents(owner)
        yield from self._judge_blobs(owners)
        yield from self._read_records()
        for owner in owners:
            yield from self._complete(owner)
        yield from self._compare_trees(owners)

    # ---- blobs and documents

    def _hash_blobs(self) -> Iterator[Finding]:
        for path in sorted(self.store.blobs.glob("*/*")):
            try:
                digest = Digest(f"{path.parent.name}:{path.name}")
            except ImageError:
                done = ""
                if self.mend:
                    remove_tree(path)
                    done = "removed"
                yield Finding(str(path), "its name is no digest", done)
                continue
            hasher = Hasher(digest.algorithm)
            with blobs.open_blob(self.store, digest, f"blob {digest}") as file:
                while block := file.read(_BLOCK):
                    hasher.update(block)
                    self.advance(len(block))
            if hasher.digest() != digest:
                self._bad[digest] = hasher.digest()

    def _is_sound(self, digest: Digest) -> bool:
        return digest not in self._bad and blobs.has(self.store, digest)

    def _owners(self) -> list[_Owner]:
        found = []
        forms = index.oci_forms(self.store)
        for image in index.images(self.store):
            form = forms.get(image.manifest.digest)
            found.append(_Owner(f"image {image.shown}", image.manifest, image.repo_digests, image, form))
        known = {owner.manifest.digest: owner for owner in found}
        for container in containers(self.store):
            if container.manifest.digest not in known:
                found.append(_Owner(f"container {container.name}", container.manifest, (), None))
        return found

    def _read_documents(self, owner: _Owner) -> Iterator[Finding]:
        if owner.manifest.media_type in INDEXES:
            return  # another program's; its manifests are blobs as all others
        try:
            yield from self._restore(owner.manifest, "manifest", owner)
            manifest = find.manifest_of(self.store, owner.manifest)
            yield from self._restore(manifest.config, "config", owner)
            owner.documents = manifest, find.config_of(self.store, manifest)
            yield from self._read_oci_form(owner)
        except ImageError as error:
            done = ""
            if self.mend and owner.image is not None:
                index.remove_image(self.store, owner.manifest.id)
                done = "the image was removed from the list: pull or load it again"
            yield Finding(owner.what, str(error), done)

    def _read_oci_form(self, owner: _Owner) -> Iterator[Finding]:
        listed = owner.oci_form
        if listed is None or self._is_sound(listed.id):
            return
        problem = "damaged" if listed.id in self._bad else "missing"
        done = ""
        made = oci_form.of(self.store, owner.manifest)
        if self.mend and made is not None and made[0].digest == listed.digest:
            blobs.path_of(self.store, listed.id).unlink(missing_ok=True)
            blobs.put_bytes(self.store, made[1])
            self._bad.pop(listed.id, None)
            done = "made again"
        yield Finding(owner.what, f"its manifest for other programs, {listed.digest}, is {problem}", done)

    def _restore(self, document: Descriptor, kind: str, owner: _Owner) -> Iterator[Finding]:
        if not self._is_sound(document.id):
            is_there = document.id in self._bad
            if self._get(document, owner.repositories):
                problem = "damaged" if is_there else "missing"
                yield Finding(owner.what, f"its {kind} {document.digest} was {problem}", "fetched again")

    def _get(self, blob: Descriptor, repositories: Sequence[Reference]) -> bool:
        """Fetch a blob from a repository that has its image; whether that was possible."""
        for repository in repositories if self.mend else ():
            try:
                with self.fetch(repository, blob) as source:
                    blobs.put(self.store, source, blob, f"blob {blob.digest}", again=True)
            except (ImageError, OSError):
                continue  # another repository may have it; where none has, the finding says that it is lost
            self._bad.pop(blob.id, None)
            return True
        return False

    def _judge_blobs(self, owners: Sequence[_Owner]) -> Iterator[Finding]:
        for digest, found in sorted(self._bad.items()):
            users = [
                (owner, blob, chain)
                for owner in owners
                for blob, chain in owner.layers()
                if blob.id == digest
            ]
            done = ""
            if any(self._get(blob, owner.repositories) for owner, blob, _ in users):
                done = "fetched again"
            elif self.mend:
                blobs.path_of(self.store, digest).unlink()
                unpacked = all(find_layer(self.store, chain) is not None for _, _, chain in users)
                done = "removed" + (": its layer is unpacked" if users and unpacked else "")
            yield Finding(f"blob {digest}", f"damaged: its content has the digest {found}", done)

    # ---- layers

    def _read_records(self) -> Iterator[Finding]:
        for path in sorted(self.store.layers.iterdir()):
            chain = chain_of(path.name)
            problem = "its name is no digest" if chain is None else self._record_problem(chain)
            if problem is None:
                continue
            done = ""
            if self.mend:
                self._remove_tree_record(chain)
                remove_tree(path)
                done = "removed"
                if chain is not None:
                    self._removed.add(chain)
                    done = "removed, to be unpacked again where it is needed"
            yield Finding(f"layer {path.name}", problem, done)

    def _record_problem(self, chain: Digest) -> str | None:
        layer = find_layer(self.store, chain)
        if layer is None:
            return "its layer.json or its tree is missing, malformed or another layer's"
        tree = read(tree_of(self.store, layer.record) / TREE_RECORD)
        if tree is not None and replace(tree, parent=layer.record.parent, content=None) != layer.record:
            return "its layer.json and the tree.json of its tree differ"
        link = self.store.layers / chain.hex / DIFF
        if not link.is_symlink() or not link.exists() or not link.samefile(layer.path):
            return f"{link} does not lead to its tree"
        return None

    def _remove_tree_record(self, chain: Digest | None) -> None:
        """Either record may be the wrong one: without this one the tree is no layer's, and is made again."""
        layer = None if chain is None else find_layer(self.store, chain)
        if layer is not None:
            (tree_of(self.store, layer.record) / TREE_RECORD).unlink(missing_ok=True)

    def _compare_trees(self, owners: Sequence[_Owner]) -> Iterator[Finding]:
        described = {blob.id: (blob, owner) for owner in owners for blob, _ in owner.layers()}
        seen: set[str] = set()
        for layer in sorted(all_layers(self.store), key=self._depth):
            if layer.record.tree in seen:
                continue
            seen.add(layer.record.tree)
            problem, done = self._compare(layer, described)
            self.advance(layer.size)
            if problem is not None:
                yield Finding(f"layer {layer.diff_id}", problem, done)

    def _compare(
        self, layer: Layer, described: dict[Digest, tuple[Descriptor, _Owner]]
    ) -> tuple[str | None, str]:
        """What is wrong with a tree, and what was done about it."""
        check = TreeCheck(self.store, layer)
        if check.is_as_noted():
            return None, ""
        blob, owner = described.get(
            layer.blob, (Descriptor(OCI_LAYER, layer.blob, layer.record.blob_size), None)
        )
        if not self._is_sound(layer.blob) and not self._get(blob, owner.repositories if owner else ()):
            if check.noted is None:
                done = ""
                if self.mend:
                    note_content(self.store, layer)
                    done = "its digest was noted, to be compared from now on"
                return "cannot be compared: its blob is not in the store, and no digest was noted", done
            return "its tree was changed, and its blob is not in the store", ""
        try:
            return check.compare_with_blob(mend=self.mend)
        except ImageError as error:
            return str(error), ""

    def _depth(self, layer: Layer) -> int:
        """How many layers are below: what depends on them is compared after them."""
        depth, below = 0, layer.parent
        while below is not None and (found := find_layer(self.store, below)) is not None:
            depth, below = depth + 1, found.parent
        return depth

    def _complete(self, owner: _Owner) -> Iterator[Finding]:
        """Whether an image has all its layers; those that were removed are unpacked again."""
        if owner.documents is None:
            return
        absent = [(blob, chain) for blob, chain in owner.layers() if find_layer(self.store, chain) is None]
        missing = [blob for blob, _ in absent if not self._is_sound(blob.id)]
        fetched = [blob for blob in missing if self._get(blob, owner.repositories)]
        for blob in missing:
            done = "fetched again" if blob in fetched else ""
            yield Finding(owner.what, f"its layer {blob.digest} is neither unpacked nor a blob", done)
        if len(fetched) == len(missing) and self._removed & {chain for _, chain in absent}:
            try:
                layers.ensure(self.store, *owner.documents)
            except ImageError as error:
                yield Finding(owner.what, f"its layers cannot be unpacked again: {error}")
