"""Draws random operations for the tree as it is.

A generator that knows nothing of the tree would mostly collect ENOENT, so it gets after every change
what the reference shows now. What it draws is written down as plain operations; replaying them needs no
generator. Must never draw what would leave the mount or wait for ever (see `vocabulary.rdev` and
`operations.ALWAYS`), and never a name starting with `.wh.`, which is a mark here and a plain name for
overlayfs.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable

from testing.oracle import vocabulary as words
from testing.oracle.case import Op
from testing.oracle.operations import RENAME_EXCHANGE, RENAME_NOREPLACE, UTIME_NOW, UTIME_OMIT
from testing.oracle.places import UID

Tree = list[tuple[bytes, str]]
"""Path and kind of everything in the mount."""

SLOTS = 4

O_PUT = [
    os.O_WRONLY,
    os.O_RDWR,
    os.O_WRONLY | os.O_TRUNC,
    os.O_WRONLY | os.O_APPEND,
    os.O_WRONLY | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
]
O_OPEN = [
    *(os.O_RDONLY, os.O_RDONLY, os.O_RDONLY),
    *(os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_RDONLY | os.O_NOFOLLOW),
    *(os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC, os.O_RDONLY | os.O_CREAT | os.O_EXCL),
    *(os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY),
    *(os.O_PATH, os.O_PATH | os.O_NOFOLLOW),
]

O_REOPEN = [os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_PATH, os.O_RDWR | os.O_TRUNC]
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
FALLOCATE = [0, 0, _KEEP_SIZE, _KEEP_SIZE | _PUNCH_HOLE, _ZERO_RANGE, _KEEP_SIZE | _ZERO_RANGE]
"""Plain, punching a hole, zeroing. fuse.ko does not pass on the others."""


class Workload:
    """A stream of operations for one phase of a case."""

    def __init__(
        self, seed: str, *, links: bool, user: bool = False, own: bool = False, allocate: bool = True
    ) -> None:
        self.rng = random.Random(seed)
        self._own = own
        self._file_modes: list[int] = [*words.FILE_MODES, *(words.CLOSED_FILE_MODES if own else ())]
        self._dir_modes: list[int] = [*words.DIR_MODES, *(words.CLOSED_DIR_MODES if own else ())]
        self._allocate = allocate
        self._by_user = 0.85 if user else 0.15
        self._opened: dict[tuple[int, int], bytes] = {}
        """What was to be opened in each slot of the two processes: the names that operations meet at."""
        self.links = links
        """Without links: for making a layer whose hard links the comparison could not bear."""
        self.tree: Tree = [(b"", "dir")]
        self.linked: list[bytes] = []
        self._draws: list[tuple[Callable[[], Op], int]] = [
            (self._put, 12),
            (self._truncate, 4),
            (self._mmap, 2),
            (self._read, 5),
            (self._mkdir, 6),
            (self._rmdir, 6),
            (self._unlink, 9),
            (self._rename, 14),
            (self._link, 4),
            (self._symlink, 3),
            (self._mknod, 3),
            (self._chmod, 6),
            (self._chown, 4),
            (self._utime, 4),
            (self._setxattr, 7),
            (self._getxattr, 2),
            (self._removexattr, 2),
            (self._look, 9),
            (self._open, 12),
            (self._by_descriptor, 18),
            (self._by_old_descriptor, 8),
            (self._lock, 10),
        ]

    def show(self, tree: Tree) -> None:
        """Tell what the mount holds now."""
        linked = words.LINKED
        self.linked = [path for path, _ in tree if path == linked or path.startswith(linked + b"/")]
        self.tree = [node for node in tree if node[0] not in self.linked]

    def draw(self) -> Op:
        """The next operation."""
        rng = self.rng
        if self.linked and rng.random() < 0.03:
            path = b"/" + rng.choice(self.linked)
            op = rng.choice(
                [Op("stat", (path, False)), Op("read", (path, 0, 500)), Op("listxattr", (path, True))]
            )
            return op._replace(uid=UID) if self._own else op
        functions = [function for function, _ in self._draws]
        op = rng.choices(functions, [weight for _, weight in self._draws])[0]()
        uid = rng.choice([1000, 1001]) if rng.random() < self._by_user else 0
        if self._own:
            uid = UID
        return op._replace(uid=uid, umask=rng.choice(words.UMASKS))

    # Paths ------------------------------------------------------------------------------------------------

    def _existing(self, *kinds: str) -> bytes:
        fitting = [path for path, kind in self.tree if path and (not kinds or kind in kinds)]
        return self.rng.choice(fitting) if fitting else self._new()

    def _directory(self) -> bytes:
        return self.rng.choice([path for path, kind in self.tree if kind == "dir"])

    def _new(self) -> bytes:
        parent = self._directory()
        name = words.name(self.rng)
        return parent + b"/" + name if parent else name

    def _path(self, *kinds: str, new: float = 0.15) -> bytes:
        """A path as given to a system call: mostly of these kinds, sometimes new, now and then a strange
        one.
        """
        dice = self.rng.random()
        if dice < new:
            return b"/" + self._new()
        if "file" in kinds and self._opened and self.rng.random() < 0.3:
            return self.rng.choice(list(self._opened.values()))
        if dice > 0.94:
            return self._strange()
        return b"/" + (self._existing(*kinds) if dice < 0.85 else self._existing())

    def _strange(self) -> bytes:
        path = b"/" + self._existing()
        style = self.rng.randrange(8)
        if style <= 2:
            return path + b"/" + words.name(self.rng)
        tails = {3: b"/", 4: b"/.", 5: b"/..", 6: b"/" + b"n" * 256}
        return (
            path + tails[style]
            if style in tails
            else b"/" + b"/".join(words.name(self.rng) for _ in range(3))
        )

    # Draws by path ----------------------------------------------------------------------------------------

    def _data(self) -> bytes:
        number = self.rng.randrange(1000)
        return words.data(number, self.rng.choice([0, 1, 7, 30, 30, 200, 5000, 70_000]))

    def _offset(self) -> int:
        return self.rng.choice([0, 0, 1, 10, 100, 4096, 10_000, 200_000, 1 << 20])

    def _file_mode(self) -> int:
        return self.rng.choice(self._file_modes)

    def _put(self) -> Op:
        flags = self.rng.choice(O_PUT)
        path = self._path("file", new=0.45 if flags & os.O_CREAT else 0.05)
        offset = None if self.rng.random() < 0.5 else self._offset()
        return Op("put", (path, flags, self._file_mode(), offset, self._data()))

    def _truncate(self) -> Op:
        return Op("truncate", (self._path("file"), self._offset()))

    def _mmap(self) -> Op:
        return Op("mmap_write", (self._path("file"), self.rng.choice([0, 3, 50, 4000]), self._data()[:300]))

    def _read(self) -> Op:
        return Op("read", (self._path("file"), self._offset(), self.rng.choice([1, 100, 100_000])))

    def _mkdir(self) -> Op:
        return Op("mkdir", (self._path(new=0.85), self.rng.choice(self._dir_modes)))

    def _rmdir(self) -> Op:
        return Op("rmdir", (self._path("dir", new=0.02),))

    def _unlink(self) -> Op:
        return Op("unlink", (self._path("file", "symlink", "special", new=0.02),))

    def _rename(self) -> Op:
        rng = self.rng
        kind = rng.choice(["file", "file", "dir", "dir", "symlink"])
        source = self._path(kind, new=0.02)
        flags = rng.choice([0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
        new = 0.05 if flags == RENAME_EXCHANGE else 0.55
        target = self._path(kind, new=new)
        if rng.random() < 0.03:
            flags = rng.choice([RENAME_NOREPLACE | RENAME_EXCHANGE, 8])
        return Op("rename", (source, target, flags))

    def _link(self) -> Op:
        if not self.links:
            return self._put()
        return Op("link", (self._path("file", "file", "symlink", "special"), self._path(new=0.8)))

    def _symlink(self) -> Op:
        return Op("symlink", (words.symlink_target(self.rng), self._path(new=0.85)))

    def _mknod(self) -> Op:
        rng = self.rng
        kind, rdev = rng.choice(
            [
                (stat.S_IFIFO, (0, 0)),
                (stat.S_IFSOCK, (0, 0)),
                (stat.S_IFREG, (0, 0)),
                (stat.S_IFCHR, (0, 0)),
                (stat.S_IFCHR, words.rdev(rng, "chr")),
                (stat.S_IFBLK, words.rdev(rng, "blk")),
            ]
        )
        return Op("mknod", (self._path(new=0.85), kind | self._file_mode(), rdev))

    def _chmod(self) -> Op:
        directory = self.rng.random() < 0.4
        mode = self.rng.choice(self._dir_modes if directory else self._file_modes)
        if self._own and len(self.tree) == 1:
            return Op("chmod", (b"/", 0o755))
        return Op("chmod", (self._path("dir" if directory else "file"), mode))

    def _chown(self) -> Op:
        owners, groups = self._owners()
        return Op("chown", (self._path(), self.rng.choice(owners), self.rng.choice(groups), self._follow()))

    def _owners(self) -> tuple[list[int], list[int]]:
        owners = [*words.OWNERS, -1]
        # Root may give to any user; an ordinary user to itself, and to a group that it is in.
        if self._own:
            return [*owners, -1, -1, UID], [*owners, *words.OWN_GROUPS * 2]
        # A chown that leaves both is a change, too.
        return [*owners, -1, -1], [*owners, -1, -1]

    def _follow(self) -> bool:
        return self.rng.random() < 0.7

    def _time(self) -> int:
        return self.rng.choice([UTIME_NOW, UTIME_OMIT, words.time_ns(self.rng), words.time_ns(self.rng)])

    def _utime(self) -> Op:
        return Op("utime", (self._path(), self._time(), self._time(), self._follow()))

    def _attribute(self) -> tuple[str, bytes]:
        rng = self.rng
        style = rng.randrange(12)
        if style <= 2:
            return rng.choice([words.ACCESS_ACL, words.DEFAULT_ACL]), words.acl(
                rng, well_formed=rng.random() < 0.9
            )
        if style == 3:
            return words.CAPABILITY, words.capability(rng)
        if style == 4:
            names = [
                "trusted.overlay.opaque",
                "trusted.overlay.a",
                "trusted.overlay.overlay.x",
                "system.none",
            ]
            return rng.choice(names), b"y"
        return words.xattr_name(rng), words.xattr_value(rng)

    def _setxattr(self) -> Op:
        name, value = self._attribute()
        flags = self.rng.choice([0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
        kinds = ("dir", "file") if name.startswith(("user.", "system.")) else ()
        return Op("setxattr", (self._path(*kinds), name, value, flags, self._follow()))

    def _getxattr(self) -> Op:
        return Op("getxattr", (self._path(), self._attribute()[0], self._follow()))

    def _removexattr(self) -> Op:
        return Op("removexattr", (self._path("dir", "file"), self._attribute()[0], self._follow()))

    def _look(self) -> Op:
        style = self.rng.randrange(5)
        if style == 0:
            return Op("list", (self._path("dir"),))
        if style == 1:
            return Op("stat", (self._path(), self._follow()))
        if style == 2:
            return Op("access", (self._path(), self.rng.randrange(8)))
        if style == 3:
            return Op("listxattr", (self._path("file", "dir"), self._follow()))
        return Op("readlink", (self._path("symlink"),))

    # Draws by descriptor ----------------------------------------------------------------------------------

    def _slot(self) -> int:
        return self.rng.randrange(SLOTS)

    def _held(self) -> tuple[int, int]:
        """A process and a slot of it: mostly one that was opened."""
        if self._opened and self.rng.random() < 0.9:
            return self.rng.choice(list(self._opened))
        return self._actor(), self._slot()

    def _actor(self) -> int:
        return self.rng.randrange(2)

    def _open(self) -> Op:
        flags = self.rng.choice(O_OPEN)
        path = self._path(
            "dir" if flags & os.O_DIRECTORY else "file", new=0.3 if flags & os.O_CREAT else 0.03
        )
        actor, slot = self._actor(), self._slot()
        self._opened[actor, slot] = path
        return Op("open", (path, flags, self._file_mode(), slot), actor=actor)

    def _by_descriptor(self) -> Op:
        rng = self.rng
        actor, slot = self._held()
        name, value = self._attribute()
        flags = rng.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
        entry = words.name(rng)
        owners, groups = self._owners()
        create = rng.choice([os.O_RDWR | os.O_CREAT, os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY])
        op = rng.choice(
            [
                Op("fread", (slot, self._offset(), rng.choice([10, 300, 100_000]))),
                Op("fread", (slot, 0, 1000)),
                Op("fwrite", (slot, self._offset(), self._data())),
                Op("fwrite", (slot, None, self._data())),
                Op("fstat", (slot,)),
                Op("fstat", (slot,)),
                Op("ftruncate", (slot, self._offset())),
                Op("fchmod", (slot, self._file_mode())),
                Op("fchown", (slot, rng.choice(owners), rng.choice(groups))),
                Op("futime", (slot, self._time(), self._time())),
                Op("fsetxattr", (slot, name, value, flags)),
                Op("fgetxattr", (slot, name)),
                Op("fremovexattr", (slot, name)),
                Op("flistxattr", (slot,)),
                Op("fsync", (slot,)),
                Op("flist", (slot,)),
                Op("openat", (slot, entry, create, self._file_mode(), self._slot())),
                Op("statat", (slot, entry)),
                Op("mkdirat", (slot, entry, rng.choice(self._dir_modes))),
                Op("unlinkat", (slot, entry)),
                Op("close", (slot,)),
            ]
        )
        return op._replace(actor=actor)

    def _by_old_descriptor(self) -> Op:
        """What is done with a descriptor that has been open for long."""
        rng = self.rng
        actor, slot = self._held()
        new_slot = self._slot()
        length = rng.choice([1, 100, 5000, 70_000])
        op = rng.choice(
            [
                Op("fread", (slot, None, rng.choice([10, 300, 100_000]))),
                Op("fread", (slot, 0, 100_000)),
                Op("fstat", (slot,)),
                Op("lseek", (slot, self._offset(), rng.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))),
                Op("fallocate", (slot, rng.choice(FALLOCATE), self._offset(), length))
                if self._allocate
                else Op("fstat", (slot,)),
                Op("reopen", (slot, rng.choice(O_REOPEN), new_slot)),
                Op("flink", (slot, self._path(new=0.8))) if self.links else Op("fsync", (slot,)),
            ]
        )
        if op.name == "reopen":
            self._opened[actor, new_slot] = self._opened.get((actor, slot), b"/")
        return op._replace(actor=actor)

    def _lock(self) -> Op:
        rng = self.rng
        actor, slot = self._held()
        if rng.random() < 0.4:
            return Op("flock", (slot, rng.choice(["sh", "sh", "ex", "ex", "un"])), actor=actor)
        name, kinds = rng.choice(
            [
                ("setlk", ["read", "read", "write", "write", "none"]),
                ("setlk", ["read", "read", "write", "write", "none"]),
                ("getlk", ["read", "write", "write"]),
            ]
        )
        span = rng.choice([0, 0, 10, 100]), rng.choice([0, 0, 10, 50])
        return Op(name, (slot, rng.random() < 0.5, rng.choice(kinds), *span), actor=actor)
