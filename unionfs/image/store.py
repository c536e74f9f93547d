"""The store on disk: where everything lies, and the locks under which it changes.

    oci-layout index.json blobs/    an OCI image layout (image-layout.md), which skopeo and umoci read
    layers/CHAIN/                   layer.json, and diff: a symlink to the tree
    trees/NAME/diff                 an unpacked layer in overlayfs's format; NAME is its DiffID, or its
                                    ChainID where its content depends on its parents
    containers/ID/                  diff work merged init/diff container.json
    volumes/NAME/                   _data volume.json
    ingest/                         what is half: each entry is locked by the process that makes it
    lock index.lock                 see below

Nothing here knows what an image is. What appears outside ingest/ appears whole, by one rename, after it is on
disk.

Locks, always taken in this order:

- `in_use()` (shared) and `pruning()` (exclusive), both on `lock`: what makes a reference to something in the
  store (a tag, a layer, a container, a mount) holds the first from the moment at which it looks for what is
  there until the reference can be seen; what removes things without a reference holds the second.
- an ingest entry's own: `claim` waits for another process that makes the same thing.
- `index.lock`, for a change of index.json.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unionfs.errors import ImageError
from unionfs.linux.syscalls import syncfs

VARIABLE = "PYUNIONFS_STORE"
_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_PAUSE = 0.02
"""Seconds between two attempts at a lock."""
_FOLDERS = ("blobs/sha256", "layers", "trees", "containers", "volumes", "ingest")


def default_root() -> Path:
    """PYUNIONFS_STORE; /var/lib/pyunionfs for root, $XDG_DATA_HOME/pyunionfs for others."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/pyunionfs")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data) / "pyunionfs"


class Store:
    """One store. Opening makes what is missing; `sweep` removes what was left half."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()
        self.blobs = self.root / "blobs"
        self.layers = self.root / "layers"
        self.trees = self.root / "trees"
        self.containers = self.root / "containers"
        self.volumes = self.root / "volumes"
        self.ingest = self.root / "ingest"
        self.index = self.root / "index.json"
        self._make()

    def _make(self) -> None:
        layout = self.root / "oci-layout"
        if layout.exists() and self.ingest.is_dir() and self.volumes.is_dir():
            return
        if self.root.exists() and not layout.exists() and not self._is_half_made():
            raise ImageError(
                f"{self.root}: neither empty nor a store of images: name another directory by --store"
            )
        # A layer may hold set-id programs: no other user may reach them through the store.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in _FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.write(layout, _LAYOUT)

    def _is_half_made(self) -> bool:
        """Whether there is nothing but what a process has made that was to make a store, and did not end."""
        ours = {folder.partition("/")[0] for folder in map(str, _FOLDERS)}
        if any(entry.name not in ours for entry in self.root.iterdir()):
            return False
        held = (place for place, _, files in os.walk(self.root) if files)
        return all(Path(place).is_relative_to(self.ingest) for place in held)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a reference is made (shared); waits for a prune."""
        with _locked(self.root / "lock", fcntl.LOCK_SH):
            yield

    @contextmanager
    def pruning(self, busy: Callable[[], None] | None = None) -> Iterator[None]:
        """While what has no reference is removed (exclusive); waits until none is being made.

        *busy* is called if it has to wait.
        """
        with _locked(self.root / "lock", fcntl.LOCK_EX, busy):
            yield

    @contextmanager
    def index_lock(self) -> Iterator[None]:
        """While index.json is read, changed and written."""
        with _locked(self.root / "index.lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def claim(self, name: str, check: Callable[[], None] | None = None) -> Iterator[Path]:
        """A directory of that name in ingest/, for this caller alone; waits for one that has it.

        It may hold what an earlier process left half: the caller goes on with it or begins anew, after a look
        whether the whole thing has appeared meanwhile. What is still in it at the end is kept for the
        next one that claims the name, or for `sweep`. While it waits, *check* is called now and then, and
        what it raises ends that.
        """
        place = self.ingest / name
        while True:
            with suppress(FileExistsError):
                os.mkdir(place, 0o700)
            try:
                fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # swept in between
                continue
            try:
                _wait_for(fd, check)
                if _is_same(place, fd):
                    try:
                        yield place
                    finally:
                        with suppress(OSError):  # something is still in it
                            place.rmdir()
                    return
            finally:
                os.close(fd)

    def write(self, path: Path, content: bytes) -> None:
        """Put a small file in place so that a crash leaves the old content or the new one."""
        with self.claim(f"file-{os.getpid()}-{threading.get_native_id()}") as place:
            beside = place / "data"
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(beside, path)
        sync_directory(path.parent)

    def sweep(self, keep: str = "blob-") -> None:
        """Remove what no living process is making; but not what begins with *keep*: downloads may go on."""
        for entry in os.scandir(self.ingest):
            if keep and entry.name.startswith(keep):
                continue
            try:
                fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(Path(entry.path))
            except BlockingIOError:
                continue  # it is being made
            finally:
                os.close(fd)


def _wait_for(fd: int, check: Callable[[], None] | None) -> None:
    while check is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            check()
            time.sleep(_PAUSE)
    fcntl.flock(fd, fcntl.LOCK_EX)


def _is_same(place: Path, fd: int) -> bool:
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


@contextmanager
def _locked(path: Path, how: int, busy: Callable[[], None] | None = None) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy is not None:
                busy()
            fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: Path) -> None:
    """Have everything on disk, in one call: fsync(2) of each file of a layer would take minutes."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def clear(place: Path) -> None:
    """Remove everything in a directory."""
    for left in place.iterdir():
        remove_tree(left)


def remove_tree(path: Path) -> None:
    """Remove a tree of any depth and with directories of any mode; what is gone already is no error.

    Symlinks are not followed, and nothing outside of the tree is changed. Each directory is moved up to
    *path* before it is emptied: it might be too deep for a path (PATH_MAX) and for descriptors of all above.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    path.chmod(0o700)
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        waiting = _remove_files(top, ".")
        known = set(waiting)
        unused = (name for name in map(str, itertools.count()) if name not in known)
        while waiting:
            name = waiting.pop()
            for below in _remove_files(top, name):
                waiting.append(next(unused))
                os.rename(f"{name}/{below}", waiting[-1], src_dir_fd=top, dst_dir_fd=top)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _remove_files(top: int, name: str) -> list[str]:
    """Remove what is no directory from the directory *name* of *top*; returns the names of the others."""
    directories = []
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                    os.chmod(entry.name, 0o700, dir_fd=fd)  # also to move it: its ".." changes
                else:
                    os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    return directories
