"""Changes by comparing the union with its lowers, name by name, wherever upper has something.

Walks upper; of the lowers only the names that upper has are looked up. A lower directory is listed only where
upper has renamed it (a redirect) or hides it (opaque, or another object in its place), because its names are
then added or deleted. What the union and the lowers show is found by the union's own lookup. Writes nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from unionfs.offline.change import Change, Kind, Problem, type_name
from unionfs.offline.compare import attribute_differences, differences
from unionfs.offline.layer_view import LayerView, Place, directory_of, places, root_hit, top
from unionfs.overlay.iget import Found, Hit
from unionfs.overlay.inode import Directory
from unionfs.overlay.readdir import Sources, scan

_NLINK = re.compile(rb"[LU][+-]\d{1,9}")


class _Node:
    """A directory of the union that is to be walked.

    `below` is the directory that the lowers alone have at its path, if they do. `same` says that this is what
    it merges, too, so that only names that upper has can differ. `source` is where the lowers have what it
    merges, None where that is nothing. `listed` says that the directory has its own line already.
    """

    __slots__ = ("above", "below", "disk", "listed", "number", "path", "same", "source", "union")

    def __init__(
        self,
        path: bytes,
        above: _Node | None,
        union: Directory,
        below: Directory | None,
        *,
        same: bool,
        source: bytes | None,
        listed: bool,
        shown: Hit,
    ) -> None:
        self.path = path
        self.above = above
        self.union = union
        self.below = below
        self.same = same
        self.source = source
        self.listed = listed
        self.disk, self.number = _space(shown), _number(shown)


def changes(view: LayerView) -> Iterator[Change | Problem]:
    """Every change, in no order; a problem for each path that cannot be read."""
    ours, theirs = root_hit(view.upper.root), root_hit(view.fs.lowers[0].root)
    try:
        differs = tuple(attribute_differences(view.fs.format, ours, theirs))
    except OSError as error:
        yield Problem(b"/", error)
        differs = ()
    if differs:
        yield Change("C", b"/", "directory", None, _space(ours), None, None, differs, None, 0, _number(ours))
    # The root itself has no line for what is in it: there is no union without it.
    todo = [
        _Node(b"", None, view.union, view.below, same=True, source=b"", listed=True, shown=ours),
    ]
    while todo:
        yield from _Walk(view, todo).directory(todo.pop())


class _Walk:
    __slots__ = ("todo", "view")

    def __init__(self, view: LayerView, todo: list[_Node]) -> None:
        self.view = view
        self.todo = todo

    def directory(self, node: _Node) -> Iterator[Change | Problem]:
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
                change = self._compare(node, name, path, union, below)
            except OSError as error:
                yield Problem(path, error)
                continue
            if change is None:
                continue
            above: _Node | None = node
            while above is not None and not above.listed:
                above.listed = True
                yield _only_below(above)
                above = above.above
            yield change

    def _names(self, node: _Node) -> list[bytes]:
        """The names in a directory at which there can be a change."""
        fs = self.view.fs
        if not node.same:
            names = set(self._listed(node.union))
            if node.below is not None:
                names.update(self._listed(node.below))
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

    def _listed(self, directory: Directory) -> list[bytes]:
        sources = Sources(self.view.fs, directory)
        try:
            return sources.cache(sources.scan()).names()
        finally:
            sources.close()

    def _compare(
        self, node: _Node, name: bytes, path: bytes, union: Found | None, below: Found | None
    ) -> Change | None:
        """The change at one name, if there is one; directories to walk are put on the list."""
        if union is None:
            return None if below is None else _deleted(path, below)
        source = _source(node, name, union)
        if below is None:
            self._enter(node, path, union, None, source, listed=True)
            return self._there("A", path, union, None, source)
        if union.upper is None and places(union.lowers) == places(below.lowers):
            return None
        differs = differences(self.view.fs, union, below)
        self._enter(node, path, union, below, source, listed=bool(differs))
        return self._there("C", path, union, below, source, differs) if differs else None

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
        same_kind = below is not None and _is_dir(below)
        self.todo.append(
            _Node(
                path,
                node,
                directory_of(union),
                directory_of(below) if below is not None and same_kind else None,
                same=places(union.lowers) == (_places_of_directory(below) if same_kind else ()),
                source=source,
                listed=listed,
                shown=top(union),
            )
        )

    def _there(
        self,
        kind: Kind,
        path: bytes,
        union: Found,
        below: Found | None,
        source: bytes | None,
        differs: tuple[str, ...] | None = None,
    ) -> Change:
        hit = top(union)
        mode = hit.st.st_mode
        return Change(
            kind,
            path,
            type_name(mode),
            _size(hit),
            _space(hit),
            (union.upper is not None and not union.upper_metacopy) if stat.S_ISREG(mode) else None,
            None if source == path else source,
            differs,
            None if below is None else _size(top(below)),
            self._unlisted_links(union, below),
            _number(hit),
        )

    def _unlisted_links(self, union: Found, below: Found | None) -> int:
        """How many names of an indexed file upper does not hold, by its `overlay.nlink`."""
        hit = union.upper
        if hit is None or stat.S_ISDIR(hit.st.st_mode) or hit.st.st_nlink < 2:
            return 0
        fmt = self.view.fs.format
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


def _places_of_directory(found: Found | None) -> tuple[Place, ...]:
    return () if found is None else places(found.lowers)


def _deleted(path: bytes, below: Found) -> Change:
    hit = top(below)
    return Change("D", path, type_name(hit.st.st_mode), None, 0, None, None, None, _size(hit))


def _only_below(node: _Node) -> Change:
    source = None if node.source == node.path else node.source
    return Change("C", node.path, "directory", None, node.disk, None, source, (), None, 0, node.number)


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
