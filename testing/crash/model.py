"""What a part of the tree must look like after which operations.

Every process of the load has its part of the tree to itself, so a journal of its operations says what must
be there. A model holds one such part. Must know nothing of mounts and never look at a filesystem: it is
what the filesystem is measured by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeAlias

Edit: TypeAlias = tuple[str, int, int, int]
"""("write", offset, number, length) or ("truncate", size, 0, 0)."""

Op: TypeAlias = tuple[Any, ...]
"""Name and arguments, all of which survive JSON."""


def pattern(number: int, length: int) -> bytes:
    """The bytes that a write with this number writes; no two numbers share them, nor two positions."""
    unit = b"".join(b"%d.%d;" % (number, position) for position in range(min(length, 60_000) // 4 + 1))
    return (unit * (length // len(unit) + 1))[:length]


@dataclass(frozen=True)
class Node:
    """One object: what `stat`, the data and the attributes must say."""

    kind: str
    """file, dir or symlink."""
    mode: int
    uid: int = 0
    edits: tuple[Edit, ...] = ()
    size: int = 0
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    mtime_ns: int | None = None
    """None where the clock of the machine decides."""

    def edited(self, edit: Edit) -> Node:
        """The file after a write or a truncation. Writes by root keep mode bits that matter here."""
        size = edit[1] if edit[0] == "truncate" else max(self.size, edit[1] + edit[3])
        # Nothing of what was there before is left then, and a long run must not remember it.
        edits = () if edit == ("truncate", 0, 0, 0) else (*self.edits, edit)
        return replace(self, edits=edits, size=size, mtime_ns=None)

    def digest(self) -> str:
        """Hash of the data."""
        return _digest(self.edits)


@lru_cache(maxsize=4096)
def _digest(edits: tuple[Edit, ...]) -> str:
    return hashlib.sha256(data_of(edits)).hexdigest()


def data_of(edits: tuple[Edit, ...]) -> bytearray:
    """What a file holds after these."""
    data = bytearray()
    for name, at, number, length in edits:
        if name == "truncate":
            del data[at:]
            data.extend(bytes(at - len(data)))
        else:
            data.extend(bytes(max(0, at - len(data))))
            data[at : at + length] = pattern(number, length)
    return data


@dataclass
class Model:
    """A part of the tree: paths to objects, so that hard links are one object."""

    paths: dict[str, int] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    last: int = 0
    metacopy: bool = False
    writes_die: bool = False
    """Whether the daemon writes the data, and may be killed in the midst of that."""

    def copy(self) -> Model:
        return Model(dict(self.paths), dict(self.nodes), self.last, self.metacopy, self.writes_die)

    def __getitem__(self, path: str) -> Node:
        return self.nodes[self.paths[path]]

    def add(self, path: str, node: Node) -> None:
        self.last += 1
        self.paths[path] = self.last
        self.nodes[self.last] = node

    def set(self, path: str, node: Node) -> None:
        self.nodes[self.paths[path]] = node

    def of_kind(self, kind: str) -> list[str]:
        return sorted(path for path in self.paths if self[path].kind == kind)

    def children(self, path: str) -> list[str]:
        return [other for other in self.paths if other.startswith(path + "/")]

    def links(self, path: str) -> list[str]:
        """All names of the object at this path."""
        return sorted(other for other, number in self.paths.items() if number == self.paths[path])

    def _touch_parent(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent in self.paths:
            self.set(parent, replace(self[parent], mtime_ns=None))

    def apply(self, op: Op) -> None:
        """The operation was answered: it is done, all of it."""
        *_, last = self.states(op)
        self.paths, self.nodes, self.last = last.paths, last.nodes, last.last

    def states(self, op: Op) -> Iterator[Model]:
        """Every state that may be found after an interruption: as before first, as after last."""
        yield self.copy()
        after = self.copy()
        name, path, *rest = op
        several = (
            self.metacopy and name in ("rewrite", "append", "write", "truncate") and self.links(path)[1:]
        )
        if several or (self.writes_die and name in ("append", "write")):
            # The data of a metacopy with several links is brought up in place, where a new mtime comes
            # before the change itself; as overlayfs does it always. And a write(2) sets the time before it
            # takes the data (file_modified() in ext4_buffered_write_iter()): on kernel overlayfs, too, one
            # whose caller is killed meanwhile leaves the new mtime alone.
            begun = self.copy()
            begun.set(path, replace(begun[path], mtime_ns=None))
            yield begun
        if name == "create":
            after.add(path, Node("file", 0o640))
            after._touch_parent(path)
            yield after.copy()
            after.set(path, after[path].edited(("write", 0, *rest)))
        elif name == "rewrite":
            after.set(path, after[path].edited(("truncate", 0, 0, 0)))
            yield after.copy()
            after.set(path, after[path].edited(("write", 0, *rest)))
        elif name == "append":
            after.set(path, after[path].edited(("write", after[path].size, *rest)))
        elif name == "write":
            after.set(path, after[path].edited(("write", *rest)))
        elif name == "truncate":
            after.set(path, after[path].edited(("truncate", rest[0], 0, 0)))
        elif name in ("mkdir", "symlink"):
            node = Node("dir", 0o750) if name == "mkdir" else Node("symlink", 0o777, target=rest[0])
            after.add(path, node)
            after._touch_parent(path)
        elif name == "chmod":
            after.set(path, replace(after[path], mode=rest[0]))
        elif name == "chown":
            after.set(path, replace(after[path], uid=rest[0]))
        elif name == "utime":
            after.set(path, replace(after[path], mtime_ns=rest[0]))
        elif name == "setxattr":
            attributes = {**dict(after[path].xattrs), rest[0]: pattern(rest[1], 20)}
            after.set(path, replace(after[path], xattrs=tuple(sorted(attributes.items()))))
        elif name in ("unlink", "rmdir"):
            del after.paths[path]
            after._touch_parent(path)
        elif name == "link":
            after.paths[rest[0]] = after.paths[path]
            after._touch_parent(rest[0])
        elif name in ("rename", "exchange"):
            after._move(path, rest[0], both=name == "exchange")
        elif name != "fsync":
            raise ValueError(f"unknown operation {name}")
        yield after

    def _move(self, source: str, target: str, *, both: bool) -> None:
        if self.paths.get(target) == self.paths[source]:
            return  # two names of one file: rename does nothing
        moved: dict[str, int] = {}
        for start, end in ((source, target), (target, source)) if both else ((source, target),):
            for path in [start, *self.children(start)]:
                moved[end + path[len(start) :]] = self.paths[path]
        for path in [source, *self.children(source), *([target, *self.children(target)] if both else [])]:
            self.paths.pop(path, None)
        self.paths.update(moved)
        self._touch_parent(source)
        self._touch_parent(target)
