"""Changes by comparing the union with its lowers, name by name, wherever upper has something.

Walks upper; of the lowers only the names that upper has are looked up. A lower directory is listed only where
upper has renamed it (a redirect) or hides it (opaque, or another object in its place), because its names are
then added or deleted. What the union and the lowers show is found by the union's own lookup. Writes nothing.

`differences_of` gives what is found at each name, for commands that make something of it; `changes` says it
in the words of `docker diff`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unionfs.offline.change import Change, Kind, Problem, type_name
from unionfs.offline.compare import attribute_differences, differences
from unionfs.offline.layer_view import LayerView, directory_of, places, root_hit, top
from unionfs.overlay.iget import Found, Hit
from unionfs.overlay.inode import Directory
from unionfs.overlay.readdir import scan

_NLINK = re.compile(rb"[LU][+-]\d{1,9}")


@dataclass(slots=True)
class Difference:
    """What the union and the lowers have at one path: absolute, and empty for the root.

    `kind` is `=` for what upper has and is as it was in the lowers. `source` is the path at which the lowers
    have what `union` has of them; None: nowhere. `differs` as in `Change`. `opaque` says of a directory that
    nothing of the lowers' directory at this path shows in it; what is in there is then reported as added.
    """

    kind: Kind | Literal["="]
    path: bytes
    union: Found | None
    below: Found | None
    source: bytes | None = None
    differs: tuple[str, ...] | None = None
    opaque: bool = False


class _Node:
    """A directory of the union that is to be walked.

    `below` is the directory that the lowers alone have at its path, if they do. `same` says that this is what
    it merges, too, so that only names that upper has can differ. `source` is where the lowers have what it
    merges, None where that is nothing. `listed` says that the directory has its own line already.
    """

    __slots__ = ("above", "below", "found", "found_below", "listed", "path", "same", "source", "union")

    def __init__(
        self,
        path: bytes,
        above: _Node | None,
        found: Found,
        found_below: Found | None,
        union: Directory,
        below: Directory | None,
        *,
        same: bool,
        source: bytes | None,
        listed: bool,
    ) -> None:
        self.path = path
        self.above = above
        self.found = found
        self.found_below = found_below
        self.union = union
        self.below = below
        self.same = same
        self.source = source
        self.listed = listed


def changes(view: LayerView) -> Iterator[Change | Problem]:
    """Every change, in no order; a problem for each path that cannot be read."""
    for each in differences_of(view):
        yield each if isinstance(each, Problem) else _change(view, each)


def differences_of(
    view: LayerView, *, unchanged: bool = False, opaque: bool = False, marks: bool = False
) -> Iterator[Difference | Problem]:
    """Every path at which union and lowers differ, in no order; a problem for each that cannot be read.

    With *unchanged* also what upper has that is as it was. With *opaque* a directory that shows nothing of
    the lowers' directory at its path is reported as such, and not compared with it. With *marks* the lowers
    are not those of the union, and upper's marks are believed: what they delete or hide was there.
    """
    assert view.upper is not None
    found = Found(root_hit(view.upper.root))
    found_below = Found(lowers=[root_hit(view.fs.lowers[0].root)]) if view.fs.lowers else None
    differs: tuple[str, ...] = ()
    try:
        if found_below is not None:
            differs = tuple(attribute_differences(view.fs.format, top(found), top(found_below)))
    except OSError as error:
        yield Problem(b"/", error)
    if found_below is None:
        yield Difference("A", b"", found, None)
    elif differs or unchanged:
        yield Difference("C" if differs else "=", b"", found, found_below, b"", differs)
    walk = _Walk(view, unchanged=unchanged, opaque=opaque, marks=marks)
    # The root itself has no line for what is in it: there is no union without it.
    walk.todo.append(
        _Node(b"", None, found, found_below, view.union, view.below, same=True, source=b"", listed=True)
    )
    while walk.todo:
        yield from walk.directory(walk.todo.pop())


class _Walk:
    __slots__ = ("marks", "opaque", "todo", "unchanged", "view")

    def __init__(self, view: LayerView, *, unchanged: bool, opaque: bool, marks: bool) -> None:
        self.view = view
        self.unchanged = unchanged
        self.opaque = opaque
        self.marks = marks
        self.todo: list[_Node] = []

    def directory(self, node: _Node) -> Iterator[Difference | Problem]:
        view = self.view
        view.fs.dirfds.trim()
        try:
            names = self._names(node)
        except OSError as error:
            yield Problem(node.path or b"/", error)
            return
        for name in names:
            path = node.path + b"/" + name
            try:
                union, below = view.lookup(node.union, name), view.lookup(node.below, name)
                found = self._compare(node, name, path, union, below)
            except OSError as error:
                yield Problem(path, error)
                continue
            if found is None:
                continue
            if found.kind != "=":
                yield from _unlisted(node)
            if found.kind != "=" or self.unchanged:
                yield found

    def _names(self, node: _Node) -> list[bytes]:
        """The names in a directory at which there can be a change."""
        fs = self.view.fs
        if not node.same:
            names = set(self.view.names(node.union))
            if node.below is not None:
                names.update(self.view.names(node.below))
            return list(names)
        upper = node.union.upper
        if upper is None:
            return []
        fd = upper.listing_fd()
        try:
            found = scan(fd, fs.format, False)
        finally:
            os.close(fd)
        return list({*found.names, *found.marks})

    def _compare(
        self, node: _Node, name: bytes, path: bytes, union: Found | None, below: Found | None
    ) -> Difference | None:
        """What there is at one name, if it can be a difference; directories to walk are put on the list."""
        if union is None:
            gone = below is not None or self.marks
            return Difference("D", path, None, below) if gone else None
        source = _source(node, name, union)
        if below is None:
            self._enter(node, path, union, None, source, listed=True)
            hides = self.marks and union.upper_opaque
            return Difference("A", path, union, None, source, opaque=hides)
        if union.upper is None and places(union.lowers) == places(below.lowers):
            return None
        differs = differences(self.view.fs, union, below)
        opaque = self.opaque and _hides(union, below)
        changed = bool(differs) or opaque
        self._enter(node, path, union, None if opaque else below, source, listed=changed)
        return Difference("C" if changed else "=", path, union, below, source, differs, opaque)

    def _enter(
        self,
        node: _Node,
        path: bytes,
        union: Found,
        below: Found | None,
        source: bytes | None,
        *,
        listed: bool,
    ) -> None:
        if not _is_dir(union):
            return
        if below is not None and not _is_dir(below):
            below = None
        self.todo.append(
            _Node(
                path,
                node,
                union,
                below,
                directory_of(union),
                None if below is None else directory_of(below),
                same=places(union.lowers) == (() if below is None else places(below.lowers)),
                source=source,
                listed=listed,
            )
        )


def _unlisted(node: _Node | None) -> Iterator[Difference]:
    """The directories above a change that have no line yet."""
    while node is not None and not node.listed:
        node.listed = True
        yield Difference("C", node.path, node.found, node.found_below, node.source, ())
        node = node.above


def _hides(union: Found, below: Found) -> bool:
    """Whether both are directories, and the union's shows nothing of the other."""
    return _is_dir(union) and _is_dir(below) and places(union.lowers) != places(below.lowers)


def _change(view: LayerView, found: Difference) -> Change:
    path, source = found.path or b"/", found.source or b"/"
    if found.union is None:
        assert found.below is not None
        hit = top(found.below)
        return Change("D", path, type_name(hit.st.st_mode), None, 0, None, None, None, _size(hit))
    assert found.kind != "="
    union, below = found.union, found.below
    hit = top(union)
    mode = hit.st.st_mode
    return Change(
        found.kind,
        path,
        type_name(mode),
        _size(hit),
        _space(hit),
        (union.upper is not None and not union.upper_metacopy) if stat.S_ISREG(mode) else None,
        None if found.source is None or source == path else source,
        found.differs,
        None if below is None else _size(top(below)),
        unlisted_links(view, union, below),
        _number(hit),
    )


def unlisted_links(view: LayerView, union: Found, below: Found | None) -> int:
    """How many names of an indexed file upper does not hold, by its `overlay.nlink`."""
    hit = union.upper
    if hit is None or stat.S_ISDIR(hit.st.st_mode) or hit.st.st_nlink < 2:
        return 0
    fmt = view.fs.format
    value = fmt.read_at(hit.directory, hit.name, fmt.nlink) or b""
    if not _NLINK.fullmatch(value):
        return 0
    if value.startswith(b"L"):
        counted = 0 if below is None else top(below).st.st_nlink
    else:
        counted = hit.st.st_nlink
    # One of the links in upper's filesystem is the index's own.
    return max(counted + int(value[1:]) - (hit.st.st_nlink - 1), 0)


def _source(node: _Node, name: bytes, union: Found) -> bytes | None:
    """Where the lowers have the lower part of an object: its path there. None where it has none."""
    if not union.lowers:
        return None
    redirect = union.upper_redirect if union.upper is not None else None
    if redirect is not None and redirect.startswith(b"/"):
        return redirect
    return None if node.source is None else node.source + b"/" + (redirect or name)


def _is_dir(found: Found) -> bool:
    return stat.S_ISDIR(top(found).st.st_mode)


def _size(hit: Hit) -> int | None:
    mode = hit.st.st_mode
    return hit.st.st_size if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else None


def _space(hit: Hit) -> int:
    """The bytes that an object occupies in upper."""
    return hit.st.st_blocks * 512 if hit.directory.layer.is_upper else 0


def _number(hit: Hit) -> tuple[int, int]:
    return hit.st.st_dev, hit.st.st_ino
