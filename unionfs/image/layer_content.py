"""What an upper has over its lowers, as the entries of one layer: the marks of overlayfs in the words of OCI.

A whiteout becomes `.wh.NAME`, a directory that hides those below `.wh..wh..opq` and all that is in it, a
renamed directory its whole content, a metacopy a file with its data. What is in upper and is as it was in
the lowers is left out, unless it is a further name of a file that is not: names that are one file in the
union are one file in the layer, those that only lowers hold among them. Changes nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from unionfs.errors import ImageError
from unionfs.image.link_names import LinkNames
from unionfs.image.tree_entries import EntryWriter, Remark, cannot_be_in_a_layer
from unionfs.offline.by_lowers import Difference, differences_of, unlisted_links
from unionfs.offline.change import Problem
from unionfs.offline.compare import attributes
from unionfs.offline.layer_view import LayerView, top
from unionfs.overlay.iget import Found

_Number = tuple[int, int]
"""st_dev and st_ino of the real object that is shown."""


@dataclass(slots=True)
class _File:
    """What has several names: in upper or, where a directory was renamed, in a lower."""

    names: list[bytes] = field(default_factory=list)
    changed: bool = False
    unlisted: int = 0
    """How many names it has in the union, by an index, that upper does not hold."""
    links: int = 0
    before: set[_Number] = field(default_factory=set)
    """Which files the lowers have at its names; with 0/0 for none."""
    links_before: int = 0


class LayerContent:
    """The entries of a layer, in memory as paths and real objects; `write` reads these."""

    def __init__(
        self, view: LayerView, remark: Remark, *, index: str | None = None, marks: bool = False
    ) -> None:
        """Look through upper. *index* is its `work/index`, where that is known.

        With *marks* the lowers are not known (the view has an empty one): what upper's marks delete or hide
        was there. Raises ImageError for what cannot be read, and for what only the lowers hold.
        """
        self._view = view
        self._remark = remark
        self._objects: dict[bytes, Found] = {}
        self._as_before: dict[bytes, Found] = {}
        self._replaced: set[bytes] = set()
        """Of the objects those that the lowers have, too."""
        self._deleted: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._files: dict[_Number, _File] = {}
        for each in differences_of(view, unchanged=True, opaque=True, marks=marks):
            if isinstance(each, Problem):
                raise ImageError(
                    f"cannot read {_shown(each.path)}: {each.error.strerror}: nothing was stored"
                )
            self._take(each, marks=marks)
        self._join_names(LinkNames(view), index)
        for path in [*self._objects, *self._deleted]:
            self._with_parents(path)
        root = self._as_before.get(b"")
        if self and root is not None and not _is_plain(view, root):
            # A layer without an entry for its root is unpacked as if it had a plain one.
            self._objects[b""] = root

    def __bool__(self) -> bool:
        """Whether there is any entry: an upper without changes makes no layer."""
        return bool(self._objects or self._deleted)

    def write(self, writer: EntryWriter) -> None:
        """Write everything, sorted by path, component by component: a directory is followed by what is in it,
        its opaque mark first.
        """
        # Zeros for slashes sort as components do; a second one comes before all names.
        steps = [(path.replace(b"/", b"\0"), path) for path in (*self._objects, *self._deleted)]
        steps += [(path.replace(b"/", b"\0") + b"\0\0", path) for path in self._opaque]
        for key, path in sorted(steps):
            if key.endswith(b"\0\0"):
                writer.add_opaque(path)
            elif path in self._deleted:
                writer.add_whiteout(path)
            elif not writer.add(path, self._objects[path]) and path in self._replaced:
                # It went meanwhile, and must not show what is below.
                writer.add_whiteout(path)

    def _take(self, each: Difference, *, marks: bool) -> None:
        path = each.path[1:]
        if b"/.wh." in each.path.rpartition(b"/")[0]:
            return  # what it lies in is left out
        if each.union is None:
            self._deleted.add(path)
            return
        hit = top(each.union)
        why = cannot_be_in_a_layer(path, hit.st.st_mode)
        if why is not None:
            self._remark(path, why)
            if each.below is not None:
                self._deleted.add(path)
            return
        if marks and each.union.upper_redirect is not None:
            raise ImageError(
                f"{_shown(each.path)}: its content is in a layer below, which is not known: name the image by"
                " --base"
            )
        if each.below is not None:
            self._replaced.add(path)
        if each.opaque:
            self._opaque.add(path)
        if stat.S_ISDIR(hit.st.st_mode):
            (self._as_before if each.kind == "=" else self._objects)[path] = each.union
        else:
            self._take_file(path, each, each.union)

    def _take_file(self, path: bytes, each: Difference, found: Found) -> None:
        st = top(found).st
        before = None if each.below is None else top(each.below).st
        has_many = st.st_nlink > 1 or (before is not None and before.st_nlink > 1)
        if not has_many and each.kind == "=":
            return
        (self._as_before if each.kind == "=" else self._objects)[path] = found
        if not has_many:
            return
        file = self._files.setdefault((st.st_dev, st.st_ino), _File())
        file.names.append(path)
        file.changed |= each.kind != "="
        file.unlisted = unlisted_links(self._view, found, each.below)
        file.links = st.st_nlink
        file.before.add((0, 0) if before is None else (before.st_dev, before.st_ino))
        file.links_before = 0 if before is None else before.st_nlink

    def _join_names(self, others: LinkNames, index: str | None) -> None:
        """Have all names of each file that is to be written, which one is whose names have changed, too."""
        for number, file in self._files.items():
            count = len(file.names) + file.unlisted
            if not file.changed and len(file.before) == 1 and file.links_before == count:
                continue
            for path in file.names:
                self._objects.setdefault(path, self._as_before.get(path) or self._objects[path])
            found = self._objects[file.names[0]]
            if found.upper is None and file.links > len(file.names):
                others.look_for(number)
            elif file.unlisted and not others.look_for_indexed(found, file.before):
                self._remark(file.names[0], f"{file.unlisted} more names of this file could not be found")
        if index is not None:
            others.look_for_index(index, self._files.keys())
        for path, found, above in others.find():
            if path in self._objects:
                # In a renamed directory it has been taken for the lower's file.
                self._objects[path] = found
                continue
            self._objects[path] = found
            self._replaced.add(path)
            self._as_before.update(above)

    def _with_parents(self, path: bytes) -> None:
        while (path := path.rpartition(b"/")[0]) and path not in self._objects:
            self._objects[path] = self._as_before[path]


def _is_plain(view: LayerView, root: Found) -> bool:
    hit = top(root)
    st = hit.st
    return (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o755, 0, 0) and not attributes(
        view.fs.format, hit
    )


def _shown(path: bytes) -> str:
    return os.fsdecode(path or b"/")
