"""The store on disk: where everything lies, and the locks under which it changes.

    oci-layout index.json blobs/    an OCI image layout (image-layout.md), which skopeo and umoci read
    layers/CHAIN/                   layer.json, and diff: a symlink to the tree
    trees/NAME/diff                 an unpacked layer in overlayfs's format; NAME is its DiffID, or its
                                    ChainID where its content depends on its parents
    containers/ID/                  diff work merged init/diff container.json
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
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unionfs.errors import ImageError

VARIABLE = "PYUNIONFS_STORE"
_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_FOLDERS = ("blobs/sha256", "layers", "trees", "containers", "ingest")


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
        self.ingest = self.root / "ingest"
        self.index = self.root / "index.json"
        self._make()

    def _make(self) -> None:
        layout = self.root / "oci-layout"
        if layout.exists() and self.ingest.is_dir():
            return
        if self.root.exists() and not layout.exists() and any(self.root.iterdir()):
            raise ImageError(
                f"{self.root}: neither empty nor a store of images: name another directory by --store"
            )
        # A layer may hold set-id programs: nobody else may reach them by the store.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in _FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.write(layout, _LAYOUT)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a reference is made (shared); waits for a prune."""
        with _locked(self.root / "lock", fcntl.LOCK_SH):
            yield

    @contextmanager
    def pruning(self) -> Iterator[None]:
        """While what has no reference is removed (exclusive); waits for everyone who is making one."""
        with _locked(self.root / "lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def index_lock(self) -> Iterator[None]:
        """While index.json is read, changed and written."""
        with _locked(self.root / "index.lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def claim(self, name: str) -> Iterator[Path]:
        """A directory of that name in ingest/, for this caller alone; waits for one that has it.

        It may hold what an earlier process left half: the caller goes on with it or begins anew, after a look
        whether the whole thing has appeared meanwhile. What is still in it at the end is kept for the
        next one that claims the name, or for `sweep`.
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
                fcntl.flock(fd, fcntl.LOCK_EX)
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


def _is_same(place: Path, fd: int) -> bool:
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
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


def remove_tree(path: Path) -> None:
    """Remove a tree, directories of mode 0 in it included; what is gone already is no error.

    Symlinks are not followed, and nothing outside of the tree is changed.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        if found.st_mode & 0o700 != 0o700 and os.geteuid() != 0:
            path.chmod(0o700)
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
        with suppress(FileNotFoundError):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)
