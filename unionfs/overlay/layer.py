"""Layers and the directories in them, each reached from its parent by one name and never by a path.

Opening one component at a time beneath a directory descriptor, never following a symlink, is what keeps a
hostile layer from reaching outside itself (invariant 6). Nothing here may write (invariant 1), nor know what
a mark means.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, suppress

from unionfs.errors import MountError
from unionfs.linux import syscalls

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 64
_OPEN_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NAME_MAX = 255

_BTRFS = 0x9123683E
_TELL_NUMBERS = frozenset(
    (
        0xEF53,  # ext2 to ext4
        0x58465342,  # XFS
        0x01021994,  # tmpfs
        0x73717368,  # SquashFS
        0xE0F5E1E2,  # EROFS
        0xF2F52010,  # F2FS
        _BTRFS,  # but for a subvolume, which is a directory with the number and the device of its own root
    )
)
"""Filesystems whose d_ino is st_ino. Of others it is not known, or it is of another device now and then."""


class DirFds:
    """The open directory descriptors, bounded in number.

    A descriptor is closed only by `trim`, which is called between operations: within an operation every
    descriptor that was handed out stays valid (invariant 7).
    """

    __slots__ = ("_limit", "_open")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # By descriptor, oldest first. Weak: a directory that is not referenced any more closes its own.
        self._open: dict[int, weakref.ref[RealDir]] = {}

    def add(self, directory: RealDir) -> None:
        self._open[directory.fd] = weakref.ref(directory)

    def remove(self, directory: RealDir) -> bool:
        """Stop managing its descriptor; returns whether it was in here."""
        return self._open.pop(directory.fd, None) is not None

    def trim(self) -> None:
        """Close the older half when there are more than the limit."""
        if len(self._open) > self._limit:
            self._close(list(self._open.values())[: self._limit // 2])

    def close(self, directory: RealDir) -> None:
        if self.remove(directory):
            os.close(directory.fd)
            directory.fd = -1

    def close_all(self) -> None:
        self._close(list(self._open.values()))

    def _close(self, references: list[weakref.ref[RealDir]]) -> None:
        for reference in references:
            directory = reference()
            if directory is not None:
                self.close(directory)

    def __len__(self) -> int:
        return len(self._open)


Lend = Callable[["RealDir"], AbstractContextManager[None]]


class Layer:
    """One tree of the stack. `idx` is its place among the lowers, top first and data-only ones last; -1 is
    the upper layer.

    `has_answered` holds the kinds of attributes ("user" and so on; of "system" the whole names) whose absence
    its filesystem has been seen to report as such, and not as something that it does not support.
    `lend`, where there is one, gives the right to search a directory of it that its mode denies (`fs.py`).
    `stat_xattrs` are the xattrs that hold owner and mode here (`override_stat.py`), its own first.
    `isolates_security` says that it has `security.` attributes under another name (`override_stat.isolated`).
    `may_have_wh_files` is False where nothing in it can be called `.wh.*`, and no lookup has to ask for that.
    `numbers_listed` says that its listings tell the numbers that stat(2) does, `dir_numbers_listed` that they
    do so of directories, too.
    """

    __slots__ = (
        "clone",
        "dir_numbers_listed",
        "dirfds",
        "has_answered",
        "idx",
        "isolates_security",
        "lend",
        "may_have_wh_files",
        "numbers_listed",
        "path",
        "root",
        "root_fd",
        "stat_xattrs",
        "uuid",
    )

    def __init__(self, idx: int, path: str, root_fd: int, dirfds: DirFds, clone: int = -1) -> None:
        self.idx = idx
        self.clone = clone
        self.path = path
        self.root_fd = root_fd
        self.dirfds = dirfds
        self.uuid = syscalls.fs_uuid(root_fd)
        self.has_answered: set[bytes] = set()
        self.lend: Lend | None = None
        self.stat_xattrs: tuple[str, ...] = ()
        self.isolates_security = False
        self.may_have_wh_files = True
        kind = syscalls.filesystem_type(root_fd)
        self.numbers_listed = kind in _TELL_NUMBERS
        self.dir_numbers_listed = self.numbers_listed and kind != _BTRFS
        self.root = RealDir(self, None, b"")
        self.root.fd = root_fd

    @property
    def is_upper(self) -> bool:
        return self.idx < 0

    def close(self) -> None:
        os.close(self.root_fd)
        if self.clone >= 0:
            os.close(self.clone)
            self.clone = -1


class RealDir:
    """A directory in a layer: its parent there and its name. The descriptor comes and goes.

    In the upper layer `parent` and `name` follow renames; in lowers they never change.
    `whiteout_files` says that zero-size files with `overlay.whiteout` are whiteouts in here
    (`overlay.opaque` = `x`).
    """

    __slots__ = ("__weakref__", "fd", "layer", "name", "parent", "pinned", "whiteout_files")

    def __init__(self, layer: Layer, parent: RealDir | None, name: bytes) -> None:
        self.layer = layer
        self.parent = parent
        self.name = name
        self.fd = -1
        self.pinned = False
        self.whiteout_files = False

    def open(self) -> int:
        """The O_PATH descriptor of this directory, to be used within the running operation only."""
        fd = self.fd
        if fd >= 0:
            return fd
        parent = self.parent
        if parent is None:
            raise OSError(errno.ESTALE, "the layer is closed")
        at = parent.fd if parent.fd >= 0 else parent._open_from_above()
        try:
            fd = os.open(self.name, _OPEN_DIR, dir_fd=at)
        except PermissionError:
            lend = self.layer.lend
            if lend is None:
                raise
            with lend(parent):
                fd = os.open(self.name, _OPEN_DIR, dir_fd=at)
        self.fd = fd
        self.layer.dirfds.add(self)
        return fd

    def _open_from_above(self) -> int:
        """As `open`, one directory after the other.

        A tree may be deeper than calls may be nested, and than a process may have descriptors: of those that
        are opened here the upper ones are closed again, which no operation was handed.
        """
        closed = [self]
        at = self.parent
        while at is not None and at.fd < 0:
            closed.append(at)
            at = at.parent
        for depth in reversed(range(len(closed))):
            closed[depth].open()
            if depth + _KEPT < len(closed):
                self.layer.dirfds.close(closed[depth + _KEPT])
        return self.fd

    def __del__(self) -> None:
        if self.fd >= 0 and (self.pinned or self.layer.dirfds.remove(self)):
            os.close(self.fd)

    def pin(self) -> None:
        """Hold the descriptor until `unpin`: the directory is about to lose its name."""
        if not self.pinned:
            self.open()
            self.layer.dirfds.remove(self)
            self.pinned = True

    def unpin(self) -> None:
        if self.pinned:
            self.pinned = False
            os.close(self.fd)
            self.fd = -1

    def child(self, name: bytes) -> RealDir:
        return RealDir(self.layer, self, name)

    def aside(self, fd: int) -> RealDir:
        """A directory of this filesystem that lies outside the tree, by its descriptor."""
        directory = RealDir(self.layer, None, b"")
        directory.fd = fd
        return directory

    def listing_fd(self) -> int:
        """A new readable descriptor; the caller closes it.

        Reading it leaves a lower's access time alone: by O_NOATIME, where no clone of the mount sees to that
        and the directory is ours.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if self.layer.clone < 0 and not self.layer.is_upper:
            try:
                return os.open(b".", flags | os.O_NOATIME, dir_fd=self.open())
            except PermissionError:
                pass
        return os.open(b".", flags, dir_fd=self.open())

    def lstat(self, name: bytes) -> os.stat_result | None:
        """The object of this name, or None where there is none (or none can have such a long name)."""
        try:
            return os.stat(name, dir_fd=self.fd if self.fd >= 0 else self.open(), follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise

    def fstat(self, fd: int) -> os.stat_result:
        """The object of this layer that a descriptor is open on, as `lstat` tells of it."""
        return os.fstat(fd)

    def has(self, name: bytes) -> bool:
        """Whether there is an object of this name."""
        return self.lstat(name) is not None

    def proc_path(self, name: bytes) -> bytes:
        """A path to *name* for calls that take no directory descriptor; do not follow its last component."""
        return b"/proc/self/fd/%d/%s" % (self.open(), name)


def is_whiteout_device(st: os.stat_result) -> bool:
    """A character device 0/0: overlayfs's whiteout."""
    return st.st_rdev == 0 and stat.S_ISCHR(st.st_mode)


def is_mark_file(st: os.stat_result | None) -> bool:
    """Whether what bears a `.wh.` name is a mark: AUFS's and OCI's are regular files, those of
    older fuse-overlayfs devices 0/0."""
    return st is not None and (stat.S_ISREG(st.st_mode) or is_whiteout_device(st))


def open_lowers(paths: Iterable[str], dirfds: DirFds, first: int = 0) -> list[Layer]:
    """Open lowers as private, read-only mounts where we may, else as plain descriptors.

    *first* is the `idx` of the first one.
    """
    layers: list[Layer] = []
    try:
        for idx, path in enumerate(paths, first):
            layers.append(_read_only(idx, path, dirfds))
    except BaseException:
        for layer in layers:
            layer.close()
        raise
    return layers


def open_upper(upper: str, work: str, dirfds: DirFds) -> tuple[Layer, int]:
    """Open upper and work through one mount, for a rename between two mounts is refused by the kernel.

    Returns the upper layer and a descriptor of the work directory.
    """
    common = os.path.commonpath((upper, work))
    clone = -1
    with ExitStack() as on_failure:
        with ExitStack() as at_end:
            top = _open_place(common)
            at_end.callback(os.close, top)
            with suppress(OSError):
                # Kept, because mount_setattr(2) takes no other descriptor of a mount than that of its root.
                top = clone = syscalls.clone_tree(top, read_only=False)
                on_failure.callback(os.close, clone)
            upper_fd = _open_beneath(top, os.path.relpath(upper, common))
            on_failure.callback(os.close, upper_fd)
            work_fd = _open_beneath(top, os.path.relpath(work, common))
            on_failure.callback(os.close, work_fd)
        layer = Layer(-1, upper, upper_fd, dirfds, clone)
        on_failure.pop_all()
    return layer, work_fd


def open_upper_to_look(upper: str, dirfds: DirFds) -> Layer:
    """Open an upper layer that is not to be changed, as `open_lowers` does a lower."""
    return _read_only(-1, upper, dirfds)


def _read_only(idx: int, path: str, dirfds: DirFds) -> Layer:
    fd = _open_root(path)
    try:
        return Layer(idx, path, fd, dirfds)
    except BaseException:
        os.close(fd)
        raise


def _open_root(path: str) -> int:
    try:
        return open_private(path, _OPEN_ROOT, read_only=True)
    except OSError as error:
        raise MountError(f"cannot open layer {path}: {error.strerror}") from error


def _open_place(path: str) -> int:
    try:
        return syscalls.open_no_symlinks(path, _OPEN_DIR)
    except OSError as error:
        raise MountError(f"cannot open layer {path}: {error.strerror}") from error


def open_private(path: str, flags: int, *, read_only: bool = False) -> int:
    """Open a directory on a private clone of its mount, which can be unmounted meanwhile, as with overlayfs.

    Without CAP_SYS_ADMIN, on an old kernel, or where the mount may not be cloned, on that mount itself: it is
    busy then, and what lies mounted on the directory is seen through it. The path was resolved when options
    were parsed: what has become a symlink since is refused.
    """
    with ExitStack() as at_end:
        place = syscalls.open_no_symlinks(path, _OPEN_DIR)
        at_end.callback(os.close, place)
        try:
            tree = syscalls.clone_tree(place, read_only=read_only)
        except OSError:
            return os.open(b"/proc/self/fd/%d" % place, flags & ~os.O_NOFOLLOW)
        at_end.callback(os.close, tree)
        return os.open(b".", flags, dir_fd=tree)


def _open_beneath(top: int, path: str) -> int:
    """Open a directory below *top*, passing through ones that may only be searched."""
    fd = os.dup(top)
    try:
        for part in path.split("/"):
            below = os.open(part, _OPEN_DIR, dir_fd=fd)
            os.close(fd)
            fd = below
        return os.open(b".", _OPEN_ROOT, dir_fd=fd)
    finally:
        os.close(fd)
