"""Random layers: what is in them, and how they are put on disk.

Two directories built from the same entries must be equal in all that a union can show, down to the
nanosecond: they are the two sides' starting points. Must write nothing outside the directory that it is
given.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterable
from pathlib import Path

from testing.oracle import vocabulary
from testing.oracle.case import DATA, Case, Config, Entry, Stack
from testing.oracle.places import UID

_KINDS = {
    "file": 36,
    "dir": 30,
    "symlink": 8,
    "link": 5,
    "fifo": 2,
    "chr": 2,
    "blk": 1,
    "sock": 1,
    "whiteout": 10,
}
_MAX_ENTRIES = 35
_MAX_DEPTH = 4
OPAQUE = "trusted.overlay.opaque"
XWHITEOUT = "trusted.overlay.whiteout"
METACOPY = "trusted.overlay.metacopy"
REDIRECT = "trusted.overlay.redirect"
_MARKS = "trusted.overlay."
_OURS = (OPAQUE, XWHITEOUT)


def generate(seed: int, config: Config) -> Case:
    """The static part of a seed's case. The operations that layers are made with are drawn when they run."""
    rng = random.Random(f"{seed} layers {config}")
    count = rng.choice([1, 1, 2, 2, 2, 3, 3, 4, 5])
    entries: list[Entry] = []
    merging: set[bytes] | None = set()
    stacks: list[Stack] = []
    for layer in range(count):
        elsewhere = rng.random() < 0.3
        stacks.append(Stack(elsewhere, redirect=rng.random() < 0.7))
        drawn = _Layer(rng, layer, links_anywhere=config.index, merging=merging)
        entries += drawn.entries
        # After operations it is not known here which directories the layers so far show.
        if merging is not None:
            merging = None if _stacked(seed, layer) else drawn.directories_shown()
    stacks.append(Stack(redirect=config.redirect or rng.random() < 0.5))
    entries.append(_root(rng, -1))
    if config.own:
        entries = _owned(rng, entries, config)
    if config.data:
        entries = _with_data_elsewhere(rng, entries)
    return Case(seed, config, tuple(stacks), tuple(entries))


def _owned(rng: random.Random, entries: list[Entry], config: Config) -> list[Entry]:
    """The same, as an ordinary user has it: without devices, all his, some of it closed to himself."""
    made: list[Entry] = []
    for entry in entries:
        if entry.kind in ("chr", "blk"):
            continue
        xattrs = [
            (config.marks + name.removeprefix(_MARKS) if name in _OURS else name, value)
            for name, value in entry.xattrs
            if name in (*_OURS, *vocabulary.OWN_ATTRIBUTES)
        ]
        if not entry.path:
            # A root that its ACL closes is refused.
            xattrs = [pair for pair in xattrs if pair[0] != vocabulary.ACCESS_ACL]
        gid = rng.choice(vocabulary.OWN_GROUPS)
        entry = entry._replace(uid=UID, gid=gid, xattrs=tuple(sorted(xattrs)))
        if gid == UID and entry.path and not _is_linked(entry.path) and rng.random() < 0.2:
            closed = {"dir": vocabulary.CLOSED_DIR_MODES, "file": vocabulary.CLOSED_FILE_MODES}
            if rng.random() < 0.9:
                closed["dir"] = vocabulary.SEARCHABLE_MODES
            entry = entry._replace(mode=rng.choice(closed.get(entry.kind, [entry.mode])))
        made.append(entry)
    return made


def _is_linked(path: bytes) -> bool:
    return path.split(b"/")[0] == vocabulary.LINKED


def _with_data_elsewhere(rng: random.Random, entries: list[Entry]) -> list[Entry]:
    """The same, with the data of half of the lowers' files in data-only layers: metacopies lead there."""
    made: list[Entry] = []
    data = [Entry(layer, b"", "dir", 0o755) for layer in DATA]
    data += [Entry(layer, b"objects", "dir", 0o700) for layer in DATA]
    for number, entry in enumerate(entries):
        if entry.layer < 0 or entry.kind != "file" or rng.random() < 0.5:
            made.append(entry)
            continue
        name = b"objects/%d" % number
        where = rng.choice(DATA)
        data.append(Entry(where, name, "file", 0o444, size=entry.size, chunks=entry.chunks))
        if where == DATA[0] and rng.random() < 0.3:
            # It is never seen: the first layer has the name.
            data.append(Entry(DATA[1], name, "file", 0o644, size=3, chunks=((0, 3, number),)))
        marks = ((METACOPY, b""), (REDIRECT, b"/" + name))
        made.append(entry._replace(chunks=(), xattrs=tuple(sorted((*entry.xattrs, *marks)))))
    return made + data


def is_stacked(case: Case, layer: int) -> bool:
    """Whether this layer (upper is the last) is changed by operations on a kernel mount beforehand."""
    return _stacked(case.seed, layer)


def _stacked(seed: int, layer: int) -> bool:
    return layer > 0 and random.Random(f"{seed} stacked {layer}").random() < 0.4


def _root(rng: random.Random, layer: int) -> Entry:
    mode = rng.choice([0o755, 0o755, 0o777, 0o1777, 0o2775])
    attributes = vocabulary.xattrs(rng, "dir") if rng.random() < 0.3 else ()
    return Entry(layer, b"", "dir", mode, mtime_ns=vocabulary.time_ns(rng), xattrs=attributes)


class _Layer:
    """Draws the entries of one layer, parents before children."""

    def __init__(
        self, rng: random.Random, number: int, *, links_anywhere: bool, merging: set[bytes] | None
    ) -> None:
        self.rng = rng
        self.number = number
        self.links_anywhere = links_anywhere
        self.merging = merging
        """Directories that the layers below show, if that is known.

        Kernel overlayfs overlooks a whiteout in an xattr that lies in a directory which merges with
        nothing: such a layer is made by hand, and wrongly.
        """
        self.xwhiteouts = bool(merging) and rng.random() < 0.25
        root = _root(rng, number)
        if self.xwhiteouts:
            # The kernel looks for whiteouts in xattrs only where the layer's root says that there are some.
            root = root._replace(xattrs=(*root.xattrs, (OPAQUE, b"x")))
        self.entries: list[Entry] = [root]
        self.files: list[bytes] = []
        self._fill(b"", 0)
        if not links_anywhere and rng.random() < 0.5:
            self._linked()

    def directories_shown(self) -> set[bytes]:
        """The directories that a union of this layer and those below it shows."""
        own = {entry.path: entry for entry in reversed(self.entries)}
        shown = {path for path, entry in own.items() if entry.kind == "dir"}
        for path in sorted(self.merging or ()):
            parts = path.split(b"/")
            above = [
                own[name]
                for name in (b"/".join(parts[:end]) for end in range(1, len(parts) + 1))
                if name in own
            ]
            hidden = any(entry.kind != "dir" or (OPAQUE, b"y") in entry.xattrs for entry in above[:-1])
            if not hidden and (not above or above[-1].kind == "dir"):
                shown.add(path)
        return shown

    def _fill(self, parent: bytes, depth: int) -> None:
        rng = self.rng
        names = {
            vocabulary.name(rng) for _ in range(rng.randrange(3, 10) if depth == 0 else rng.randrange(0, 6))
        }
        for name in sorted(names):
            if len(self.entries) >= _MAX_ENTRIES:
                return
            self._one(parent + b"/" + name if parent else name, depth)

    def _one(self, path: bytes, depth: int) -> None:
        rng = self.rng
        kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        if kind == "whiteout":
            self.entries.append(Entry(self.number, path, kind, mtime_ns=vocabulary.time_ns(rng)))
            return
        if kind == "link":
            if not self.files or not self.links_anywhere:
                return
            self.entries.append(Entry(self.number, path, kind, target=rng.choice(self.files)))
            return
        if kind == "dir" and depth >= _MAX_DEPTH:
            kind = "file"
        mode = rng.choice(vocabulary.DIR_MODES if kind == "dir" else vocabulary.FILE_MODES)
        uid, gid = rng.choice(vocabulary.OWNERS), rng.choice(vocabulary.OWNING_GROUPS)
        attributes = dict(vocabulary.xattrs(rng, kind))
        entry = Entry(self.number, path, kind, mode, uid, gid, mtime_ns=vocabulary.time_ns(rng))
        if kind == "file":
            size, chunks = vocabulary.chunks(rng)
            entry = entry._replace(size=size, chunks=chunks)
            self.files.append(path)
        elif kind == "symlink":
            entry = entry._replace(target=vocabulary.symlink_target(rng), mode=0o777)
        elif kind in ("chr", "blk"):
            entry = entry._replace(rdev=vocabulary.rdev(rng, kind))
        if kind != "dir":
            self.entries.append(entry._replace(xattrs=tuple(sorted(attributes.items()))))
            return
        if self.merging and path in self.merging and self.xwhiteouts:
            attributes[OPAQUE] = b"x"
            self._xwhiteout(path)
        elif self.number > 0 and rng.random() < 0.12:
            attributes[OPAQUE] = b"y"
        self.entries.append(entry._replace(xattrs=tuple(sorted(attributes.items()))))
        self._fill(path, depth + 1)

    def _xwhiteout(self, parent: bytes) -> None:
        path = parent + b"/" + vocabulary.name(self.rng)
        time = vocabulary.time_ns(self.rng)
        self.entries.append(Entry(self.number, path, "xwhiteout", mtime_ns=time, xattrs=((XWHITEOUT, b"y"),)))

    def _linked(self) -> None:
        rng = self.rng
        time = vocabulary.time_ns(rng)
        self.entries.append(Entry(self.number, vocabulary.LINKED, "dir", 0o755, mtime_ns=time))
        first = vocabulary.LINKED + b"/%d-first" % self.number
        size, chunks = vocabulary.chunks(rng)
        self.entries.append(Entry(self.number, first, "file", 0o644, mtime_ns=time, size=size, chunks=chunks))
        for link in range(rng.randrange(1, 3)):
            path = vocabulary.LINKED + b"/%d-link%d" % (self.number, link)
            self.entries.append(Entry(self.number, path, "link", target=first))


def build(entries: Iterable[Entry], directory: Path) -> None:
    """Make one layer's entries in a directory.

    What misses its parent is left out (a minimised case has such).
    """
    root = os.fsencode(directory)
    # A path may be drawn twice (an xwhiteout is drawn before its siblings): the first wins.
    chosen: dict[bytes, Entry] = {}
    by_depth = sorted(entries, key=lambda entry: entry.path.count(b"/") + bool(entry.path))
    for entry in [entry for entry in by_depth if entry.kind != "link"]:
        if entry.path not in chosen and _has_parent(entry.path, chosen):
            chosen[entry.path] = entry
            _make(root + b"/" + entry.path if entry.path else root, entry)
    for entry in [entry for entry in by_depth if entry.kind == "link"]:
        target = chosen.get(entry.target)
        wanted = entry.path not in chosen and _has_parent(entry.path, chosen)
        if wanted and target is not None and target.kind == "file":
            os.link(root + b"/" + entry.target, root + b"/" + entry.path)
            chosen[entry.path] = entry
    for entry in reversed(chosen.values()):
        if entry.kind != "link":
            _dress(root + b"/" + entry.path if entry.path else root, entry)


def keep_in_reach(directory: Path) -> None:
    """Give what is closed to its owner, in a lower, the group that the owner can have in a namespace.

    A user who makes a namespace without help has one uid and one gid there, and overlayfs's mounter is let
    past modes of what belongs to both. A root that is closed is refused (`own_rules.refuses_closed_root`).
    """
    directory.chmod(stat.S_IMODE(directory.stat().st_mode) | 0o500)
    for above, names, files in os.walk(os.fsencode(directory)):
        for path in [os.path.join(above, name) for name in (*names, *files)]:
            st = os.lstat(path)
            needed = 0o500 if stat.S_ISDIR(st.st_mode) else 0o400
            if st.st_gid != UID and not stat.S_ISLNK(st.st_mode) and st.st_mode & needed != needed:
                os.chown(path, -1, UID)
                os.chmod(path, stat.S_IMODE(st.st_mode))


def _has_parent(path: bytes, chosen: dict[bytes, Entry]) -> bool:
    if b"/" not in path:
        return True
    above = chosen.get(path.rpartition(b"/")[0])
    return above is not None and above.kind == "dir"


def _make(path: bytes, entry: Entry) -> None:
    if entry.kind == "dir":
        if entry.path:
            os.mkdir(path)
    elif entry.kind == "symlink":
        os.symlink(entry.target, path)
    elif entry.kind in ("file", "xwhiteout"):
        with open(path, "xb") as file:
            for offset, length, number in entry.chunks:
                file.seek(offset)
                file.write(vocabulary.data(number, length))
            file.truncate(entry.size)
    elif entry.kind == "whiteout":
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    else:
        types = {"fifo": stat.S_IFIFO, "sock": stat.S_IFSOCK, "chr": stat.S_IFCHR, "blk": stat.S_IFBLK}
        os.mknod(path, types[entry.kind], os.makedev(*entry.rdev))


def _dress(path: bytes, entry: Entry) -> None:
    """Owner, mode, attributes and times; owner first, because it takes capabilities and setuid away."""
    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != "whiteout":
        if entry.kind != "symlink":
            os.chmod(path, entry.mode)
        for name, value in entry.xattrs:
            os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
