"""Bringing the data of a metacopy up in place, where no complete file can take its place.

For one with several links, an index entry, or no name left; `copy_up.py` has the other way. Until the mark is
gone, readers take the lower's data.
"""

from __future__ import annotations

import os

from unionfs.overlay.copy_data import copy_data
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import File
from unionfs.overlay.priv import CAPABILITY, capability_of
from unionfs.overlay.under_way import COPYING, WRITING_OUT, SlowWork


class DataCopyUp:
    """Bringing the data of a metacopy up in place.

    Until the mark is gone, readers take the lower's data. Killed meanwhile, it leaves a new mtime, as
    overlayfs always does.
    """

    __slots__ = ("_capability", "_fs", "_inode", "_source", "_st", "_target", "is_slow", "progress", "size")

    def __init__(self, fs: OverlayFs, inode: File, truncate: bool) -> None:
        self._fs = fs
        self._inode = inode
        self._st = inode.lstat()
        self.size = 0 if truncate else self._st.st_size
        self._target = inode.open_real(os.O_RDWR)
        try:
            self._capability = capability_of(self._target)
            self._source = inode.open_data(os.O_RDONLY)
        except BaseException:
            os.close(self._target)
            raise
        self.is_slow = fs.is_slow_to_copy(self.size)
        self.progress: SlowWork | None = None

    def run(self) -> None:
        # The target keeps its size all the while: with the mark still on, its size is the file's. What an
        # interrupted attempt has left in it is the same data.
        if self.size:
            progress = self.progress
            note = None if progress is None else progress.enter(COPYING)
            shared = copy_data(self._source, self._target, self.size, clone=self._fs.may_clone, note=note)
            if progress is not None:
                progress.enter(WRITING_OUT)
            if self._fs.write_out is not None:
                self._fs.write_out(self._target, shared)

    def finish(self, error: BaseException | None) -> None:
        inode = self._inode
        inode.pending = None
        self._fs.under_way.end(self.progress)
        # A lookup while the data was being written saw the times, and no capability.
        inode.no_capability = False
        self._fs.attrs_to_invalidate.append(inode.ino)
        try:
            try:
                if error is None:
                    self._commit()
            finally:
                # Also where the commit fails, or the write that wanted the data would look half done.
                if self.size:
                    self._put_back()
        finally:
            os.close(self._source)
            os.close(self._target)
            self._fs.table.drop_if_unused(inode)

    def _commit(self) -> None:
        cuts = not self.size and self._st.st_size > 0
        if cuts:
            os.ftruncate(self._target, 0)
        try:
            os.removexattr(self._target, self._fs.format.metacopy)
        except BaseException:
            if cuts:
                # With the mark still on, its size is the file's.
                os.ftruncate(self._target, self._st.st_size)
                self._put_back()
            raise
        self._inode.metacopy = False
        self._fs.copy_ups += 1

    def _put_back(self) -> None:
        """Writing has dropped the capability and changed the times; neither is the caller's doing."""
        try:
            if self._capability is not None:
                os.setxattr(self._target, CAPABILITY, self._capability)
        finally:
            os.utime(self._target, ns=(self._st.st_atime_ns, self._st.st_mtime_ns))
