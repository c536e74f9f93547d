"""What must reach the disk before a complete file is renamed into place, so that no crash shows half of it.

What counts is the order (invariant 5): whenever the name is on disk, owner, mode and data are. fsync(2) gives
that, and pays for a commit of the journal each time. Filesystems whose one journal brings changes of metadata
to disk in the order in which they were made need less: the data must be written (not flushed: the commit that
carries the rename flushes the disk first), and what its writing has changed in the inode is then in the
journal before the rename. ext4 and XFS end a page's writeback only after that. btrfs does not, and its log of
one fsync may hold a name without the data of its file. Nothing here may be used where *durability* was asked
for: an fsync of a caller's is an fsync.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from unionfs.linux import syscalls

WriteOut = Callable[[int, bool], None]
"""Called with a descriptor of the complete file, and whether it shares its data with the source (FICLONE)."""

_EXT = 0xEF53
_TMPFS = 0x01021994
_QUICK = 0.001
_XFS = 0x58465342


class Pace:
    """How long copies of small files take lately, the disk included, and so whether a worker is worth while.

    Handing one to a worker and waking up again costs about a tenth of a millisecond. With a quick disk that
    is more than the copy, and the state thread may wait for it. It begins as if the disk were slow.
    """

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = 1.0

    @property
    def is_quick(self) -> bool:
        return self._seconds < _QUICK

    def note(self, seconds: float) -> None:
        """A small file has taken so long. State thread only."""
        self._seconds = (self._seconds + seconds) / 2


def may_clone(fd: int) -> bool:
    """Whether files of the filesystem of *fd* may share data (FICLONE); where it says so, try."""
    return syscalls.filesystem_type(fd) not in (_EXT, _TMPFS)


def write_out(fd: int) -> WriteOut:
    """How it is done on the filesystem of *fd*; by fsync where nothing better is known to be safe."""
    kind = syscalls.filesystem_type(fd)
    if kind == _EXT and _has_journal(os.fstat(fd).st_dev):
        return _write_data
    if kind == _XFS and syscalls.xfs_is_one_device(fd):
        return _write_data_unless_shared
    return _sync


def _has_journal(device: int) -> bool:
    """Whether an ext4 keeps its journal in itself (inode 8), where one flush is enough for both."""
    try:
        link = os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    except OSError:
        return False
    return os.path.exists(f"/proc/fs/jbd2/{os.path.basename(link)}-8")


def _write_data(fd: int, shared: bool) -> None:
    syscalls.write_data(fd)


def _write_data_unless_shared(fd: int, shared: bool) -> None:
    # Cloning waits for the source's data to be written, and is a change of metadata itself.
    if not shared:
        syscalls.write_data(fd)


def _sync(fd: int, shared: bool) -> None:
    os.fsync(fd)
