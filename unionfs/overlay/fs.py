"""The state of one union: its layers, its tables, its counters. Modules of this package share it.

Read and changed by the state thread only. Holds no operation: those are in the files named after the
kernel's, and `super.py` is their face.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from unionfs.linux import syscalls
from unionfs.overlay import order
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.copy_data import INLINE
from unionfs.overlay.cred import Identity
from unionfs.overlay.data_only import DataLayers
from unionfs.overlay.format import Format, Origin
from unionfs.overlay.inode import ROOT_INO, Directory, File, Inode
from unionfs.overlay.layer import DirFds, Layer, RealDir
from unionfs.overlay.lend import Lender
from unionfs.overlay.owners.inodes import Owners
from unionfs.overlay.owners.store import OwnerStore
from unionfs.overlay.prefetch import CopyUpPrefetch
from unionfs.overlay.table import InodeTable, Numbers
from unionfs.overlay.under_way import UnderWay
from unionfs.overlay.wait import BackgroundJob
from unionfs.overlay.work import Work

NewDirectory = Callable[[int, int, RealDir | None, tuple[RealDir, ...]], Directory]


class DirectoryCopy(Protocol):
    """A directory that is being brought into upper as a whole (`copy_tree.TreeCopy`)."""

    def advance(self) -> None:
        """Go on for the operation that wants it. Raises `Wait`, and its failure once that is undone."""

    def note_change(self, inode: Inode) -> None:
        """Some request is about to change an object: what is in upper may soon be more than a copy."""


class OverlayFs:
    """One mounted stack (the kernel's `struct ovl_fs`). Made by `open_fs`, ended by `close`."""

    __slots__ = (
        "attrs_to_invalidate",
        "aufs",
        "background_jobs",
        "config",
        "copy_ups",
        "data",
        "dirfds",
        "format",
        "handle_can_open",
        "identity",
        "index_dir",
        "layers_static",
        "lender",
        "lowers",
        "may_clone",
        "new_directory",
        "new_file",
        "owner_store",
        "owners",
        "pace",
        "plain_steps",
        "prefetch",
        "refused_xattrs",
        "root",
        "syncs",
        "table",
        "under_way",
        "upper",
        "work",
        "work_dir",
        "work_root",
        "write_out",
    )

    def __init__(
        self,
        config: UnionConfig,
        upper: Layer | None,
        work: Work | None,
        lowers: list[Layer],
        dirfds: DirFds,
        identity: Identity,
        data: DataLayers | None = None,
        owners: Owners | None = None,
        work_root: RealDir | None = None,
    ) -> None:
        self.config = config
        self.upper = upper
        self.work = work
        # The work directory itself, where none is used but one was opened to be repaired (`open_fs.py`).
        self.work_root = work_root
        self.lowers = lowers
        self.data = data
        self.dirfds = dirfds
        self.identity = identity
        self.owners = owners
        # What an ordinary user's daemon lends itself; None for one that passes over modes.
        self.lender: Lender | None = None
        if upper is not None and not identity.privileged:
            self.lender = Lender(identity.uid, upper.root_fd, work)
            upper.lend = self._lend_search
        self.owner_store = OwnerStore() if owners is None else owners.store
        # What inodes are made of, chosen once.
        self.new_file: Callable[[int, int], File] = File if owners is None else owners.new_file
        self.new_directory: NewDirectory = Directory if owners is None else owners.new_directory
        stat_xattrs = owners is not None and owners.uses_xattrs
        self.format = Format(config.userxattr, foreign=config.foreign_marks, stat_xattrs=stat_xattrs)
        self.table = InodeTable(Numbers(xino=config.xino != "off", ino32=config.ino32))
        # Of what names attributes are neither shown nor set; b"" begins every name.
        self.refused_xattrs: tuple[bytes, ...] = () if config.acl else (b"system.posix_acl_",)
        if not config.xattrs:
            self.refused_xattrs = (b"",)
        self.aufs = config.whiteouts == "aufs"
        self.syncs = config.fsync and not config.volatile
        # Whether the layers change through this union only.
        self.layers_static = config.timeout is None
        # `work/index/` as a directory of the upper layer; None without index=on.
        self.index_dir: RealDir | None = None
        if upper is not None and work is not None and work.index_fd >= 0:
            self.index_dir = upper.root.aside(work.index_fd)
        # `work/work/` likewise: where a file waits that has no name in upper but still one in a lower.
        self.work_dir: RealDir | None = None
        if upper is not None and work is not None:
            self.work_dir = upper.root.aside(work.fd)
        # How data is got to the disk before a rename: None where nothing must be (`volatile`).
        self.write_out: order.WriteOut | None = None
        self.may_clone = False
        self.pace = order.Pace()
        if upper is not None:
            self.may_clone = order.may_clone(upper.root_fd)
            if not config.volatile:
                self.write_out = order.write_out(upper.root_fd)
        self.copy_ups = 0
        # Inodes whose attributes an operation on another one has changed (invariant 11): the transport has
        # the kernel ask for them again.
        self.attrs_to_invalidate: list[int] = []
        # What operations have left to be done; the transport has it done in a worker.
        self.background_jobs: list[BackgroundJob] = []
        self.prefetch = CopyUpPrefetch()
        # Directories that are being brought into upper as a whole (`copy_tree.py`).
        self.plain_steps: dict[Directory, DirectoryCopy] = {}
        self.under_way = UnderWay()
        # Whether open_by_handle_at is ours to use; the first refusal settles it.
        self.handle_can_open = True
        if config.uuid == "off":
            leave_uuids_out(list(self.layers()))
        numbers = self.table.numbers
        for layer in [upper, *lowers] if upper is not None else lowers:
            st = os.fstat(layer.root_fd)
            numbers.of(st.st_dev, st.st_ino)
        roots = tuple(layer.root for layer in lowers)
        for root in roots[:-1]:
            path = b"/proc/self/fd/%d" % root.open()
            root.whiteout_files = self.format.holds_whiteout_files(path, follow=True)
        for at, root in enumerate(roots[:-1]):
            if self.format.opaque_root(root):
                roots = roots[: at + 1]
                break
        if config.foreign_marks and upper is not None and self.format.opaque_root(upper.root):
            roots = ()
        top = upper.root_fd if upper is not None else lowers[0].root_fd
        self.root = self.new_directory(
            ROOT_INO,
            (lowers[0] if upper is None else upper).root.fstat(top).st_mode,
            upper.root if upper is not None else None,
            roots,
        )
        self.root.pinned = True
        if self.layers_static:
            with contextlib.suppress(
                OSError
            ):  # a filesystem that does not list any may have them all the same
                self.root.no_xattrs = self.format.xattrs.shows_none(os.listxattr(top))
        self.table.add(self.root)

    def layers(self) -> Iterator[Layer]:
        """All of them, top first."""
        if self.upper is not None:
            yield self.upper
        yield from self.lowers
        if self.data is not None:
            yield from self.data.layers

    def close(self) -> None:
        """Clear work and close the layers. Nothing of the union can be used after it."""
        for inode in self.table.values():
            inode.close()
        self.dirfds.close_all()
        self.prefetch.close()
        if self.work is not None:
            self.work.close()
        if self.work_root is not None:
            os.close(self.work_root.fd)
        for layer in self.layers():
            layer.close()

    def writable_work(self) -> Work:
        """The work directory, for an operation that is about to change something.

        Raises EROFS on a union without an upper.
        """
        if self.work is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.work

    def is_slow_to_copy(self, size: int) -> bool:
        """Whether so much data had better be copied by a worker."""
        return size > 0 and (size > INLINE or (self.write_out is not None and not self.pace.is_quick))

    @contextlib.contextmanager
    def lend(self, directory: RealDir, needed: int) -> Iterator[None]:
        """Have the owner's *needed* permissions on a directory of upper, if it is ours; whatever its mode."""
        if self.lender is None or not directory.layer.is_upper:
            yield
            return
        with self.lender.lent(directory.open(), needed) as changed:
            try:
                if changed:
                    self.invalidate_attrs(directory)
                yield
            finally:
                # Again, for a lookup that has come meanwhile.
                if changed:
                    self.invalidate_attrs(directory)

    @contextlib.contextmanager
    def lend_all(self, directories: Sequence[RealDir], needed: int) -> Iterator[None]:
        """`lend` on several."""
        with contextlib.ExitStack() as stack:
            for directory in directories:
                stack.enter_context(self.lend(directory, needed))
            yield

    def _lend_search(self, directory: RealDir) -> contextlib.AbstractContextManager[None]:
        return self.lend(directory, stat.S_IXUSR)

    def invalidate_attrs(self, directory: RealDir) -> None:
        """The change time of a directory in upper has changed: if the kernel knows it, it must ask again."""
        names = []
        at = directory
        while at.parent is not None:
            names.append(at.name)
            at = at.parent
        inode: Inode | None = self.root
        if self.upper is None or at is not self.upper.root:
            return
        for name in reversed(names):
            if not isinstance(inode, Directory):
                return
            inode = inode.children.get(name)
        if inode is not None:
            self.attrs_to_invalidate.append(inode.ino)

    def stat_origin(self, origin: Origin) -> os.stat_result | None:
        """The lower object that an origin names, where it still exists and its handle can be opened."""
        if not self.handle_can_open:
            return None
        for layer in self.lowers:
            if layer.uuid != origin.uuid:
                continue
            try:
                fd = syscalls.open_by_handle(layer.root_fd, origin.type, origin.handle, os.O_PATH)
            except OSError as error:
                if error.errno == errno.EPERM:
                    self.handle_can_open = False
                    return None
                if error.errno in (errno.ESTALE, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT):
                    continue
                raise
            try:
                return layer.root.fstat(fd)
            finally:
                os.close(fd)
        return None


def leave_uuids_out(layers: list[Layer]) -> None:
    """What `uuid=off` means: origins name no filesystem, so that they are good in a copy of it, too.

    As with overlayfs, only where all layers are of one: nothing else would tell them apart.
    """
    if len({os.fstat(layer.root_fd).st_dev for layer in layers}) == 1:
        for layer in layers:
            if layer.uuid is not None:
                layer.uuid = bytes(16)
