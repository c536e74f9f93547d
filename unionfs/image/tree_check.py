"""Whether an unpacked layer still holds what was unpacked, and putting it right.

A tree has no digest of its own: the DiffID is that of the tar, which cannot be made again from the tree byte
by byte. So a tree is compared with what its blob unpacks to now; and once that was found to be the same, or
the blob is about to be freed, the digest of the tree (`tree_digest.py`) is noted in tree.json.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from unionfs.errors import ImageError
from unionfs.image import blobs
from unionfs.image.digest import Digest
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import DIFF, TREE_RECORD, Layer, find, read, tree_of
from unionfs.image.lowers import is_mounted
from unionfs.image.model import encode
from unionfs.image.one_pass import Stages, one_pass
from unionfs.image.store import Store, clear, sync_filesystem
from unionfs.image.tree_digest import difference, tree_digest

_NO_LIMIT = 1 << 62
"""Its size was limited when it was unpacked first."""


def note_content(store: Store, layer: Layer) -> None:
    """Note the digest of a layer's tree, which is as it must be, or as far as is known."""
    check = TreeCheck(store, layer)
    if check.noted is None:
        check.note(tree_digest(layer.path))


class TreeCheck:
    """The tree of one layer."""

    def __init__(self, store: Store, layer: Layer) -> None:
        self._store = store
        self._layer = layer
        self._place = tree_of(store, layer.record)
        self._record = read(self._place / TREE_RECORD) or layer.record
        self.noted = Digest(self._record.content) if self._record.content is not None else None
        """The digest that the tree had when it was known to be good; None: none was noted."""

    def note(self, content: Digest) -> None:
        """Note the digest that the tree has now."""
        record = replace(self._record, content=content)
        self._store.write(self._place / TREE_RECORD, encode(record))

    def is_as_noted(self) -> bool:
        """Whether a digest was noted, and the tree has it."""
        return self.noted is not None and tree_digest(self._layer.path) == self.noted

    def compare_with_blob(self, *, mend: bool) -> tuple[str | None, str]:
        """What is wrong with the tree by its blob, which is there and sound; and what was done about it.

        To *mend*, what the blob unpacks to takes the place of a tree that differs, unless a mount has that.
        """
        with self._store.claim(f"verify-{self._layer.record.tree}") as claimed:
            clear(claimed)
            try:
                fresh = claimed / "tree"
                self._unpack(fresh / DIFF)
                path = difference(self._layer.path, fresh / DIFF)
                if path is None:
                    if self.noted is None:
                        self.note(tree_digest(self._layer.path))
                    return None, ""
                problem = f"its tree differs at {os.fsdecode(path)!r} from what its blob unpacks to"
                if not mend:
                    return problem, ""
                if is_mounted(self._layer.path):
                    return f"{problem}; a mount has it: unmount that, and repair again", ""
                record = replace(self._record, content=tree_digest(fresh / DIFF))
                (fresh / TREE_RECORD).write_bytes(encode(record))
                sync_filesystem(claimed)
                os.rename(self._place, claimed / "differs")
                os.rename(fresh, self._place)
                return problem, "unpacked again"
            finally:
                clear(claimed)

    def _unpack(self, target: Path) -> None:
        layer = self._layer
        try:
            form = LayerForm.of_store(self._store)
        except ImageError as error:
            raise ImageError(f"cannot be compared: {error}") from None
        if form.name != layer.record.form:
            raise ImageError(
                f"cannot be compared: it is unpacked in the form {layer.record.form}, and this process writes"
                f" the form {form.name}"
            )
        target.mkdir(parents=True)
        with blobs.open_blob(self._store, layer.blob, f"layer {layer.blob}") as file:
            one_pass(
                file,
                lambda: None,
                layer.blob,
                layer.diff_id,
                target,
                self._parents,
                form,
                _NO_LIMIT,
                Stages(),
            )

    def _parents(self) -> Sequence[Path]:
        found = []
        parent = self._layer.parent
        while parent is not None:
            below = find(self._store, parent)
            if below is None:
                raise ImageError(f"cannot be compared: {parent}, a layer below it, is not unpacked")
            found.append(below.path)
            parent = below.parent
        return found
