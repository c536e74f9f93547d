"""Changes from upper alone, by the marks of its objects. No lower is needed or read.

Of the lowers only the marks are known; docs/offline.md says where that is not enough. Reads marks of
overlayfs, fuse-overlayfs and AUFS. Writes nothing.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from unionfs.offline.change import Change, Kind, Problem, type_name
from unionfs.overlay.format import OPAQUE_FILE, WHITEOUT_PREFIX, Format
from unionfs.overlay.layer import Layer, RealDir, is_mark_file
from unionfs.overlay.readdir import scan
from unionfs.overlay.xattr_names import FUSE_OVERLAYFS_PREFIX

_FUSE_OPAQUE = FUSE_OVERLAYFS_PREFIX + "opaque"
_FUSE_ORIGIN = FUSE_OVERLAYFS_PREFIX + "origin"


class _State(enum.Enum):
    """What a directory of upper merges, as far as marks say."""

    MERGED = enum.auto()  # the lowers' directory of the same path
    MOVED = enum.auto()  # a directory that the lowers have under another path
    NEW = enum.auto()  # nothing
    UNMARKED = enum.auto()  # nothing, as overlayfs would have it: but the layer may be made by other means


class _Node:
    """A directory of upper; `source` is the path in the lowers of what it merges, None where that is nothing.

    `change` is its own line as long as that is open.
    """

    __slots__ = ("above", "change", "path", "real", "source", "state")

    def __init__(
        self, path: bytes, above: _Node | None, real: RealDir, state: _State, source: bytes | None
    ) -> None:
        self.path = path
        self.above = above
        self.real = real
        self.state = state
        self.source = source
        self.change: Change | None = None


def changes(upper: Layer, fmt: Format) -> Iterator[Change | Problem]:
    """Every change, in no order; a problem for each path that cannot be read."""
    walk = _Walk(fmt)
    walk.todo.append(_Node(b"", None, upper.root, _State.MERGED, b""))
    while walk.todo:
        upper.dirfds.trim()
        yield from walk.directory(walk.todo.pop())
    yield from walk.left_open()


class _Walk:
    __slots__ = ("by_fuse_overlayfs", "fmt", "open", "todo")

    def __init__(self, fmt: Format) -> None:
        self.fmt = fmt
        self.todo: list[_Node] = []
        self.open: list[_Node] = []
        self.by_fuse_overlayfs = False

    def directory(self, node: _Node) -> Iterator[Change | Problem]:
        try:
            fd = node.real.listing_fd()
            try:
                found = scan(fd, self.fmt, False)
            finally:
                os.close(fd)
        except OSError as error:
            yield Problem(node.path or b"/", error)
            return
        replaced = set(found.names).intersection(found.marks)
        for name in found.marks:
            # `.wh..opq` is a device that fuse-overlayfs leaves; the union shows no name of this kind.
            if name not in replaced and not name.startswith(WHITEOUT_PREFIX):
                yield from self._whiteout(node, name)
        for name in found.names:
            try:
                yield from self._object(node, name, replaced=name in replaced)
            except OSError as error:
                yield Problem(node.path + b"/" + name, error)

    def left_open(self) -> Iterator[Change]:
        """The lines of the directories that bear no mark.

        overlayfs marks what is copied up, fuse-overlayfs what is new.
        """
        for node in self.open:
            if node.change is not None:
                merged = self.by_fuse_overlayfs or node.state is _State.MERGED
                yield replace(node.change, kind="C" if merged else "A")

    def _whiteout(self, node: _Node, name: bytes) -> Iterator[Change]:
        """A deletion, but where nothing of the lowers can be."""
        if node.state in (_State.MERGED, _State.UNMARKED):
            _is_merged(node)
            yield Change("D", node.path + b"/" + name)

    def _object(self, node: _Node, name: bytes, *, replaced: bool) -> Iterator[Change]:
        st = node.real.lstat(name)
        if st is None:  # it has gone meanwhile
            return
        marks = self.fmt.names(node.real, name) or []
        if any(mark in (_FUSE_OPAQUE, _FUSE_ORIGIN) for mark in marks):
            self.by_fuse_overlayfs = True
        if stat.S_ISDIR(st.st_mode):
            yield from self._directory(node, name, st, marks, replaced=replaced)
        elif stat.S_ISREG(st.st_mode) and st.st_size == 0 and self.fmt.whiteout in marks:
            yield from self._whiteout(node, name)
        else:
            yield self._file(node, name, st, marks, replaced=replaced)

    def _file(
        self, node: _Node, name: bytes, st: os.stat_result, marks: list[str], *, replaced: bool
    ) -> Change:
        path = node.path + b"/" + name
        regular = stat.S_ISREG(st.st_mode)
        metacopy = regular and self.fmt.metacopy in marks
        source: bytes | None = None
        if metacopy:
            source = self._source(node, name, marks)
            copied_up = source == path
        elif _FUSE_ORIGIN in marks:
            # The path that it had in the lowers, without a slash before it, and with the NUL behind it.
            source = b"/" + (self.fmt.read_at(node.real, name, _FUSE_ORIGIN) or b"").rstrip(b"\0")
            copied_up = source == path
        else:
            # A copy-up in its place needs its directory copied up before.
            copied_up = node.state is _State.MERGED and self.fmt.origin in marks
        return _change("C" if copied_up or replaced else "A", path, st, regular and not metacopy, source)

    def _directory(
        self, node: _Node, name: bytes, st: os.stat_result, marks: list[str], *, replaced: bool
    ) -> Iterator[Change]:
        fmt = self.fmt
        path = node.path + b"/" + name
        real = node.real.child(name)
        source = self._source(node, name, marks)
        if self._is_opaque(node.real, name, real, marks):
            state, source = _State.NEW, None
        elif fmt.redirect in marks:
            state = _State.MERGED if source == path else _State.MOVED
        elif node.state is _State.NEW:
            state, source = _State.NEW, None
        elif node.state is _State.MOVED:
            state, source = (_State.MOVED, source) if fmt.origin in marks else (_State.NEW, None)
        elif fmt.origin in marks:
            state = _State.MERGED
        else:
            state = _State.UNMARKED
        below = _Node(path, node, real, state, source)
        self.todo.append(below)
        if state is _State.MERGED:
            _is_merged(node)
        change = _change("C" if replaced or state is _State.MERGED else "A", path, st, None, source)
        if state is _State.UNMARKED and not replaced:
            below.change = change
            self.open.append(below)
        else:
            yield change

    def _is_opaque(self, parent: RealDir, name: bytes, real: RealDir, marks: list[str]) -> bool:
        marked = _FUSE_OPAQUE in marks or (
            self.fmt.opaque in marks and self.fmt.read_at(parent, name, self.fmt.opaque) == b"y"
        )
        try:
            has_file = is_mark_file(real.lstat(OPAQUE_FILE))
        except PermissionError:
            return marked  # listing it will say so
        if marked and has_file:
            self.by_fuse_overlayfs = True  # which alone writes both
        return marked or has_file

    def _source(self, node: _Node, name: bytes, marks: list[str]) -> bytes | None:
        """Where the lowers have what an object merges, by its redirect or its parent's; None: nowhere."""
        redirect = name
        if self.fmt.redirect in marks:
            redirect = self.fmt.read_redirect(node.real.proc_path(name))
            if redirect.startswith(b"/"):
                return redirect
        return None if node.source is None else node.source + b"/" + redirect


def _is_merged(node: _Node | None) -> None:
    """Record that a directory, and so all those above it, are in the lowers."""
    while node is not None and node.state is _State.UNMARKED:
        node.state = _State.MERGED
        node = node.above


def _change(
    kind: Kind, path: bytes, st: os.stat_result, in_upper: bool | None, source: bytes | None
) -> Change:
    size = st.st_size if stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode) else None
    return Change(
        kind,
        path,
        type_name(st.st_mode),
        size,
        st.st_blocks * 512,
        in_upper if stat.S_ISREG(st.st_mode) else None,
        None if source == path else source,
        number=(st.st_dev, st.st_ino),
    )
