"""A union without a mount, used by path: what a kernel would ask of it, asked by a test.

`View` walks with lookups and counts them as the kernel does, so that a test can forget everything and look at
what is left. Operations that need slow work get it done in place. Nothing here may know a rule of the union.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.overlay.trees import Tree, build, node_kind
from tests.support.mounts import overlayfs
from unionfs.overlay.attr import Changes, link_count
from unionfs.overlay.closed import open_union
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.inode import ROOT_INO, File, Inode
from unionfs.overlay.listing import DirHandle
from unionfs.overlay.wait import complete

ROOT = Caller(0, 0, 0, 0o022)
"""Root with every capability (process 0 has no /proc entry, so the user decides)."""
USER = Caller(1000, 1000, 0, 0o022)
"""Somebody without capabilities."""


class View:
    """A union, and the lookups that a kernel would hold of it."""

    def __init__(self, config: UnionConfig, caller: Caller = ROOT) -> None:
        self.union = open_union(config)
        self.caller = caller
        self.known: Counter[int] = Counter()

    # --- walking ---------------------------------------------------------------------------------

    def find(self, path: str) -> tuple[Inode, os.stat_result] | None:
        """The entry of a path, or None."""
        ino = ROOT_INO
        entry = self.union.getattr(ROOT_INO)
        for part in os.fsencode(path).split(b"/") if path not in ("", ".") else []:
            found = complete(self.union.lookup, ino, part)
            if found is None:
                return None
            entry = found
            ino = entry[0].ino
            self.known[ino] += 1
        return entry

    def inode(self, path: str) -> Inode:
        entry = self.find(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no such name", path)
        return entry[0]

    def file(self, path: str) -> File:
        inode = self.inode(path)
        assert isinstance(inode, File)
        return inode

    def ino(self, path: str) -> int:
        return self.inode(path).ino

    def at(self, path: str) -> tuple[int, bytes]:
        """The parent's number and the last name."""
        head, _, tail = path.rpartition("/")
        return self.ino(head), os.fsencode(tail)

    def forget_all(self) -> None:
        """What `echo 2 > drop_caches` makes the kernel do: children before parents is not promised."""
        for ino, count in list(self.known.items()):
            self.union.forget(ino, count)
        self.known.clear()

    # --- reading ---------------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        return self.find(path) is not None

    def stat(self, path: str) -> os.stat_result:
        return self.union.getattr(self.ino(path))[1]

    def nlink(self, path: str) -> int:
        inode, st = self.union.getattr(self.ino(path))
        return link_count(inode, st)

    def read(self, path: str) -> bytes:
        handle = self.open(path)
        try:
            return self.read_handle(handle)
        finally:
            self.union.release(handle)

    @staticmethod
    def read_handle(handle: OpenFile, offset: int = 0, size: int = 1 << 20) -> bytes:
        """As a transport reads: from the cache, else waiting for the disk."""
        data = handle.read_now(offset, size)
        return handle.read(offset, size) if data is None else data

    def entries(self, path: str = "") -> dict[str, int]:
        """A listing: name to d_ino, "." and ".." included; as a kernel that keeps no entry."""
        handle = self.union.open_dir(self.ino(path))
        try:
            return {name: ino for name, ino, _ in self.read_dir(handle, 0)}
        finally:
            self.union.release_dir(handle)

    def read_dir(
        self, handle: DirHandle, offset: int, count: int | None = None
    ) -> list[tuple[str, int, int]]:
        """(name, d_ino, cookie of the next) from a cookie on, at most *count* of them; d_ino 0: broken."""
        found: list[tuple[str, int, int]] = []
        for name, entry, cookie in complete(self.union.read_dir, handle, offset):
            full = count is not None and len(found) == count
            if not full:
                found.append((os.fsdecode(name), 0 if entry is None else entry[0].ino, cookie))
            if entry is not None:
                self.union.drop_if_unused(entry[0])
            if full:
                break
        return found

    def ls(self, path: str = "") -> list[str]:
        """The names of a listing, sorted, without the dots."""
        return sorted(set(self.entries(path)) - {".", ".."})

    def readlink(self, path: str) -> str:
        return os.fsdecode(self.union.readlink(self.ino(path)))

    def getxattr(self, path: str, name: str) -> bytes:
        return self.union.getxattr(self.ino(path), name.encode())

    def listxattr(self, path: str, caller: Caller | None = None) -> list[str]:
        return sorted(map(os.fsdecode, self.union.listxattr(self.ino(path), caller or self.caller)))

    # --- changing --------------------------------------------------------------------------------

    def open(self, path: str, flags: int = os.O_RDONLY, caller: Caller | None = None) -> OpenFile:
        return complete(self.union.open_file, self.ino(path), flags, caller or self.caller)

    @contextmanager
    def opened(self, path: str, flags: int = os.O_RDONLY, caller: Caller | None = None) -> Iterator[OpenFile]:
        handle = self.open(path, flags, caller)
        try:
            yield handle
        finally:
            self.union.release(handle)

    def write(self, path: str, data: bytes, offset: int = 0, caller: Caller | None = None) -> None:
        with self.opened(path, os.O_WRONLY, caller) as handle:
            assert handle.write(offset, data) == len(data)

    def create(self, path: str, data: bytes = b"", mode: int = 0o644, caller: Caller | None = None) -> int:
        parent, name = self.at(path)
        inode, _, handle = complete(self.union.create, parent, name, mode, os.O_RDWR, caller or self.caller)
        self.known[inode.ino] += 1
        handle.write(0, data)
        self.union.release(handle)
        return inode.ino

    def mkdir(self, path: str, mode: int = 0o755, caller: Caller | None = None) -> int:
        return self._made(complete(self.union.mkdir, *self.at(path), mode, caller or self.caller))

    def mknod(self, path: str, mode: int, rdev: int = 0, caller: Caller | None = None) -> int:
        return self._made(complete(self.union.mknod, *self.at(path), mode, rdev, caller or self.caller))

    def symlink(self, target: str, path: str, caller: Caller | None = None) -> int:
        entry = complete(self.union.symlink, *self.at(path), os.fsencode(target), caller or self.caller)
        return self._made(entry)

    def link(self, old: str, new: str) -> int:
        return self._made(complete(self.union.link, self.ino(old), *self.at(new)))

    def _made(self, entry: tuple[Inode, os.stat_result]) -> int:
        self.known[entry[0].ino] += 1
        return entry[0].ino

    # The kernel has looked a name up before it removes or renames it.

    def unlink(self, path: str) -> None:
        self.find(path)
        complete(self.union.unlink, *self.at(path))

    def rmdir(self, path: str) -> None:
        self.find(path)
        complete(self.union.rmdir, *self.at(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.find(old)
        self.find(new)
        complete(self.union.rename, *self.at(old), *self.at(new), flags)

    def change(
        self,
        path: str,
        *,
        caller: Caller | None = None,
        handle: OpenFile | None = None,
        kill: bool | None = None,
        writing: bool | None = None,
        touch: bool = False,
        by_handle: bool = False,
        kept: bool = False,
        keeps_mtime: bool = False,
        **fields: int,
    ) -> os.stat_result:
        """setattr: mode=, uid=, gid=, size=, atime_ns=, mtime_ns=."""
        changes = Changes(
            **fields,
            kill=kill,
            writing=writing,
            touch=touch,
            by_handle=by_handle,
            kept=kept,
            keeps_mtime=keeps_mtime,
        )
        return complete(self.union.setattr, self.ino(path), changes, caller or self.caller, handle)[1]

    def chmod(self, path: str, mode: int) -> None:
        self.change(path, mode=mode)

    def copy_range(
        self,
        source: OpenFile,
        in_offset: int,
        target: OpenFile,
        out_offset: int,
        length: int,
        caller: Caller | None = None,
    ) -> int:
        """copy_file_range, its job done in place."""
        return self.union.copy_range_job(source, in_offset, target, out_offset, length, caller)()

    def setxattr(
        self, path: str, name: str, value: bytes, flags: int = 0, caller: Caller | None = None
    ) -> None:
        ino = self.ino(path)
        complete(self.union.setxattr, ino, name.encode(), value, flags, caller or self.caller)

    def removexattr(self, path: str, name: str) -> None:
        complete(self.union.removexattr, self.ino(path), name.encode(), self.caller)

    # --- as a whole ------------------------------------------------------------------------------

    def tree(self, path: str = "") -> dict[str, str]:
        """Everything that a caller sees below *path*, one line an object, as `seen` says it of a mount."""
        found: dict[str, str] = {}
        for name in self.ls(path):
            below = f"{path}/{name}" if path else name
            inode, st = self.union.getattr(self.ino(below))
            data = ""
            if stat.S_ISREG(st.st_mode):
                data = repr(self.read(below))
            elif stat.S_ISLNK(st.st_mode):
                data = self.readlink(below)
            found[below] = _line(st, link_count(inode, st), data)
            if stat.S_ISDIR(st.st_mode):
                found |= self.tree(below)
        return found

    def close(self) -> None:
        """Unmount: the kernel drops all that it knows, then the union ends."""
        self.forget_all()
        self.union.close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def seen(root: Path) -> dict[str, str]:
    """Everything below a real directory, in the words of `View.tree`."""
    found = {}
    for path in sorted(root.rglob("*")):
        try:
            st = path.lstat()
        except FileNotFoundError:
            # overlayfs lists whiteout files outside of opaque=x directories, and then does not find them.
            continue
        data = ""
        if stat.S_ISREG(st.st_mode):
            data = repr(path.read_bytes())
        elif stat.S_ISLNK(st.st_mode):
            data = os.readlink(path)
        found[str(path.relative_to(root))] = _line(st, st.st_nlink, data)
    return found


def _line(st: os.stat_result, nlink: int, data: str) -> str:
    kind = st.st_mode & 0o170000
    if kind in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
        what = {stat.S_IFDIR: "dir", stat.S_IFREG: f"file of {st.st_size}", stat.S_IFLNK: "link"}[kind]
    else:
        what = f"{node_kind(st.st_mode)} {st.st_rdev}"
    owner = f"{st.st_uid}:{st.st_gid}"
    return f"{what} {stat.S_IMODE(st.st_mode):o} {owner} x{nlink} {st.st_mtime_ns} {data}".rstrip()


class Stack:
    """The directories of one test's union: lowers, upper, work and a mountpoint for the kernel's."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lowers: list[Path] = []
        self.data_lowers: list[Path] = []
        self.timeout: float | None = None
        self.upper = base / "upper"
        self.work = base / "work"
        self.merged = base / "merged"
        for path in (self.upper, self.work, self.merged):
            path.mkdir()

    def layers(self, *lowers: Tree, upper: Tree | None = None) -> Stack:
        """Fill the layers: the lowers, top first, and upper."""
        for tree in lowers:
            self.lowers.append(build(self.base / f"lower{len(self.lowers)}", tree))
        if upper is not None:
            build(self.upper, upper)
        return self

    def data(self, *layers: Tree) -> Stack:
        """Add data-only layers."""
        for tree in layers:
            self.data_lowers.append(build(self.base / f"data{len(self.data_lowers)}", tree))
        return self

    def config(self, *, writable: bool = True, **options: Any) -> UnionConfig:
        return UnionConfig(
            lowers=tuple(map(str, self.lowers)),
            data_lowers=tuple(map(str, self.data_lowers)),
            upper=str(self.upper) if writable else None,
            work=str(self.work) if writable else None,
            timeout=self.timeout,
            **options,
        )

    def open(self, *, writable: bool = True, **options: Any) -> View:
        return View(self.config(writable=writable, **options))

    def kernel(self, *options: str) -> dict[str, str]:
        """What kernel overlayfs shows of the same layers.

        With a work directory of its own, and volatile, for its sync at unmount is what takes long; but with
        an index, which lies in work, on the union's.
        """
        work = self.work
        if "index=on" not in options:
            work = self.base / f"kernel-work{len(list(self.base.glob('kernel-work*')))}"
            work.mkdir()
            options = (*options, "volatile")
        with self.overlayfs(work, *options) as merged:
            return seen(merged)

    def overlayfs(self, work: Path, *options: str) -> AbstractContextManager[Path]:
        """Kernel overlayfs on the same layers."""
        data = self.data_lowers
        return overlayfs(self.lowers, self.upper, work, self.merged, options=options, data_lowers=data)

    def work_names(self) -> list[str]:
        """What is left in work/work, temporary objects of a crash or of a fault."""
        return sorted(os.listdir(self.work / "work"))

    def index_names(self) -> list[str]:
        index = self.work / "index"
        return sorted(os.listdir(index)) if index.exists() else []


def leaked(before: list[str]) -> list[str]:
    """Descriptors that are open now and were not *before*.

    Those of another test that its garbage had kept open may have been closed meanwhile.
    """
    return sorted((Counter(descriptors()) - Counter(before)).elements())


def descriptors() -> list[str]:
    """What this process has open: a list of targets, to be compared before and after."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # the descriptor of this listing
    return sorted(found)


def caller(uid: int = 0, gid: int | None = None, umask: int = 0) -> Caller:
    return Caller(uid, uid if gid is None else gid, 0, umask)


def remove(view: View, path: str) -> None:
    """rm -r of a directory."""
    for name in view.ls(path):
        below = f"{path}/{name}"
        if stat.S_ISDIR(view.stat(below).st_mode):
            remove(view, below)
        else:
            view.unlink(below)
    view.rmdir(path)


def steps(*acts: Callable[[View], object]) -> Callable[[View], None]:
    """Several things to do to a union, one after the other."""

    def run(view: View) -> None:
        for act in acts:
            act(view)

    return run
