"""What the oracle tries: layers, mount options and operations, as plain data.

Everything here must survive `repr` and `ast.literal_eval`, because a difference is handed to people as a
file that replays it without the generator that made it. Must never hold anything that depends on the
machine or the time.
"""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

Xattrs = tuple[tuple[str, bytes], ...]
Chunk = tuple[int, int, int]
"""Part of a file's data: offset, length, and the number that its bytes are made from."""


DATA = (-2, -3)
"""The numbers of the two data-only layers."""


class Entry(NamedTuple):
    """One object of one layer."""

    layer: int
    """0 is the lowest; -1 is the upper's root directory as it is before the first mount; `DATA` are the
    data-only layers, first to last.
    """
    path: bytes
    """Relative to the layer, b"" for its root."""
    kind: str
    """dir, file, symlink, link, fifo, sock, chr, blk, whiteout or xwhiteout."""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    chunks: tuple[Chunk, ...] = ()
    target: bytes = b""
    """Of a symlink; of a link, the path of an earlier file of the same layer."""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Xattrs = ()


class Op(NamedTuple):
    """One operation, by the name of its function in `operations`."""

    name: str
    args: tuple[Any, ...] = ()
    uid: int = 0
    umask: int = 0o022
    actor: int = 0
    """Which of the two processes performs it; each has slots and locks of its own."""

    def __str__(self) -> str:
        user = "" if self.uid == 0 else f"  as uid {self.uid}"
        mask = "" if self.umask == 0o022 else f"  umask {self.umask:03o}"
        actor = "  in the second process" if self.actor else ""
        return f"{self.name}({', '.join(map(_short, self.args))}){user}{mask}{actor}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 150 else f"{text[:100]}...{text[-20:]} ({len(text)} characters)"


@dataclass(frozen=True)
class Config:
    """Mount options and filesystems of a case."""

    fs: str = "ext4"
    """Of upper and work: ext4, xfs, btrfs, tmpfs, or here (whatever the scratch directory is on)."""
    redirect: bool = True
    index: bool = False
    metacopy: bool = False
    data: bool = False
    """Whether there are data-only layers, and metacopies in lowers whose data is there."""
    user: bool = False
    """Whether nearly all operations are ordinary users'."""
    own: bool = False
    """Whether an ordinary user mounts, whose all layers are, and does everything."""

    def __post_init__(self) -> None:
        if self.metacopy and not self.redirect:
            raise ValueError("overlayfs refuses metacopy=on with redirect_dir=off")
        if self.data and not self.metacopy:
            raise ValueError("without metacopy=on overlayfs refuses metacopies but in the last lower")
        if self.own and (self.redirect or self.index or self.user):
            raise ValueError("in a user namespace overlayfs has no redirects, no index and one user")

    def options(self) -> list[str]:
        """The mount options, spelled the same for overlayfs and pyunionfs."""
        if self.own:
            # Without a word about redirects, pyunionfs renames directories by copying them.
            return ["userxattr", "redirect_dir=nofollow"]
        return [
            f"redirect_dir={_on(self.redirect)}",
            f"index={_on(self.index)}",
            f"metacopy={_on(self.metacopy)}",
        ]

    @property
    def marks(self) -> str:
        """What the names of the union's own attributes begin with."""
        return "user.overlay." if self.own else "trusted.overlay."

    def __str__(self) -> str:
        more = [name for name in ("data", "user", "own") if getattr(self, name)]
        return ",".join([self.fs, *self.options(), *more])


def _on(flag: bool) -> str:
    return "on" if flag else "off"


@dataclass(frozen=True)
class Stack:
    """How one layer comes to be: its static entries, then operations on a kernel overlayfs mount that has
    it as upper.

    The second part makes the layers that real uses make: with redirects, origins, metacopies and opaque
    directories that overlayfs itself wrote, in lower layers too.
    """

    elsewhere: bool = False
    """On the second filesystem instead of upper's."""
    redirect: bool = True
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True)
class Case:
    """One history to compare. Operations may be absent while they are still to be generated."""

    seed: int
    config: Config
    stacks: tuple[Stack, ...]
    """Of the lower layers, lowest first, and at the end that of upper."""
    entries: tuple[Entry, ...]
    ops: tuple[Op, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def lowers(self) -> int:
        return len(self.stacks) - 1

    def save(self, path: Path) -> None:
        """Write the case where `load` finds it again: one entry and one operation a line, to be edited by
        hand.
        """
        lines = ["# A case of the differential oracle. Replay: scripts/fuzz.py --replay THIS-FILE"]
        lines += [f"# {note}" for note in self.notes]
        lines.append(repr({"seed": self.seed, "config": asdict(self.config)}))
        for number, stack in enumerate(self.stacks):
            lines.append(repr(("stack", stack.elsewhere, stack.redirect)))
            lines += [repr(("entry", *entry)) for entry in self.entries if entry.layer == number]
            lines += [repr(("stack op", *op)) for op in stack.ops]
        lines += [repr(("entry", *entry)) for entry in self.entries if entry.layer < 0]
        lines += [repr(("op", *op)) for op in self.ops]
        path.write_text("\n".join(lines) + "\n")

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read what `save` wrote."""
        rows = [ast.literal_eval(line) for line in path.read_text().splitlines() if line and line[0] != "#"]
        head = rows[0]
        stacks: list[Stack] = []
        entries: list[Entry] = []
        ops: list[Op] = []
        for kind, *fields in rows[1:]:
            if kind == "stack":
                stacks.append(Stack(*fields))
            elif kind == "entry":
                entries.append(Entry(*fields))
            elif kind == "stack op":
                stacks[-1] = replace(stacks[-1], ops=(*stacks[-1].ops, Op(*fields)))
            elif kind == "op":
                ops.append(Op(*fields))
            else:
                raise ValueError(f"{path}: a line of unknown kind {kind!r}")
        return cls(head["seed"], Config(**head["config"]), tuple(stacks), tuple(entries), tuple(ops))
