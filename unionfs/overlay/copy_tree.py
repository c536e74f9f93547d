"""Renaming a directory of a lower without a redirect: first all that it shows is brought into upper.

Where redirects may not be written (ordinary users, fuse-overlayfs's form), each object below the directory is
copied up where it is, by the same copy-ups as for a change; a directory of which all names are in upper is
then made opaque, innermost first, which no caller sees. At the end it is a directory of upper only and moves
as such. Each step leaves the same merged tree, so that a crash, ENOSPC, or a caller that is killed shows the
tree as it was; inodes, open files and hard links stay, and changes meanwhile are changes of the same objects.
Must never make a directory opaque that shows a name which is not wholly in upper.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Generator, Iterator

from unionfs.overlay import aufs
from unionfs.overlay.access import Placing, set_mark
from unionfs.overlay.copy_up import ensure_upper, link_up
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.namei import find
from unionfs.overlay.readdir import HIDDEN, index_of
from unionfs.overlay.wait import Task, Wait

_SLICE = 0.005
"""Seconds for which small objects are copied in one go, before other requests have their turn."""


class Budget:
    """What may still be copied for one rename; EXDEV when it is used up, and `mv` then copies."""

    __slots__ = ("_bytes", "_files", "taken")

    def __init__(self, most_bytes: int, most_files: int) -> None:
        self._bytes = most_bytes
        self._files = most_files
        self.taken = 0

    def take(self, size: int) -> None:
        self._files -= 1
        self._bytes -= size
        self.taken += size
        if self._files < 0 or self._bytes < 0:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


class _Pause:
    """Nothing to do: the other requests have their turn, and the operation is called again."""

    def run(self) -> None:
        pass

    def finish(self, error: BaseException | None) -> None:
        pass


def make_plain(fs: OverlayFs, directory: Directory) -> None:
    """Make a directory with lower parts one of upper only.

    Raises `Wait` until that is done; EXDEV above `rename_copy_bytes` and `rename_copy_files`.

    The first walk only measures, so that what is too large has copied nothing.
    """
    if not directory.lowers:
        return
    steps = fs.plain_steps.get(directory)
    if steps is None:
        steps = fs.plain_steps[directory] = _steps(
            fs, directory, Budget(fs.config.rename_copy_bytes, fs.config.rename_copy_files)
        )
    try:
        until = time.monotonic() + _SLICE
        for task in steps:
            if task is not None:
                raise Wait(task)
            if time.monotonic() > until:
                raise Wait(_Pause())
    except Wait:
        raise
    except BaseException:
        fs.plain_steps.pop(directory, None)
        raise
    fs.plain_steps.pop(directory, None)
    if directory.lowers:  # it was removed meanwhile, or is under a new name
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _steps(fs: OverlayFs, directory: Directory, budget: Budget) -> Iterator[Task | None]:
    yield from _measure(fs, directory, budget)
    assert fs.upper is not None
    space = os.fstatvfs(fs.upper.root_fd)
    if not fs.may_clone and budget.taken > space.f_bavail * space.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before anything was copied
    yield from _bring_up(fs, directory)


def _measure(fs: OverlayFs, directory: Directory, budget: Budget) -> Iterator[Task | None]:
    """Take from *budget* what is to be copied below *directory*."""
    budget.take(0)
    with _held(fs, directory):
        for name in (yield from _names(fs, directory)):
            inode = yield from _find(fs, directory, name)
            if isinstance(inode, Directory) and inode.lowers:
                yield from _measure(fs, inode, budget)
            elif isinstance(inode, File):
                if not inode.on_upper or inode.metacopy:
                    budget.take(inode.lstat().st_size)
                fs.table.drop_if_unused(inode)
            yield None


def _bring_up(fs: OverlayFs, directory: Directory) -> Iterator[Task | None]:
    """Have all in upper that *directory* shows, then make it opaque. Ends early where it was removed."""
    with _held(fs, directory):
        while directory.lowers and directory.parent is not None:
            ensure_upper(fs, directory)
            missing = False
            for name in (yield from _names(fs, directory)):
                inode = yield from _find(fs, directory, name)
                if inode is None:
                    continue
                if not _is_plain(fs, directory, name, inode):
                    missing = True
                    yield from _child(fs, directory, name, inode)
                yield None
            if not missing and (yield from _close_off(fs, directory)):
                return


def _child(fs: OverlayFs, directory: Directory, name: bytes, inode: Inode) -> Iterator[Task | None]:
    if isinstance(inode, Directory):
        if inode.lowers:
            yield from _bring_up(fs, inode)
        return
    assert isinstance(inode, File)
    with _held(fs, inode):
        while (inode.parent, inode.name) == (directory, name) or (directory, name) in (inode.aliases or ()):
            try:
                ensure_upper(fs, inode)
                link_up(fs, inode, directory, name)
                return
            except Wait as wait:
                task = wait.task
            yield task


def _close_off(fs: OverlayFs, directory: Directory) -> Generator[Task | None, None, bool]:
    """Make it opaque if all is in upper at this moment: no pause from the check to the mark."""
    names = yield from _names(fs, directory)
    for name in names:
        while True:
            try:
                inode = find(fs, directory, name)
                break
            except Wait as wait:
                task = wait.task
            yield task
            return False
        if inode is None or not _is_plain(fs, directory, name, inode):
            return False
        fs.table.drop_if_unused(inode)
    if directory.parent is None or directory.upper is None:
        return False
    upper, index = directory.upper, directory.index
    if not directory.opaque:
        path, follow = directory.proc_path()
        set_mark(fs, path, fs.format.opaque, b"y", follow=follow)
        if fs.aufs:
            aufs.mark_opaque(fs, upper)
    directory.opaque = True
    directory.lowers = ()
    directory.index = None
    fs.stale.append(directory.ino)
    for name, there in [] if index is None else index.upper.items():
        if there is HIDDEN:
            # Below an opaque directory it hides nothing: should it stay, that does no harm.
            with Placing(fs, upper), contextlib.suppress(OSError):
                if fs.aufs:
                    aufs.unhide(upper, name)
                else:
                    os.unlink(name, dir_fd=upper.open())
    return True


def _is_plain(fs: OverlayFs, directory: Directory, name: bytes, inode: Inode) -> bool:
    """Whether upper has the object at this very name, and all of it."""
    if isinstance(inode, Directory):
        return inode.upper is not None and not inode.lowers
    assert isinstance(inode, File)
    if not inode.on_upper or inode.metacopy or inode.copying is not None:
        return False
    assert directory.index is not None
    there = directory.index.upper.get(name)
    return there is not None and there is not HIDDEN


def _names(fs: OverlayFs, directory: Directory) -> Generator[Task | None, None, list[bytes]]:
    while True:
        try:
            return index_of(fs, directory).names()
        except Wait as wait:
            task = wait.task
        yield task


def _find(fs: OverlayFs, directory: Directory, name: bytes) -> Generator[Task | None, None, Inode | None]:
    while True:
        try:
            return find(fs, directory, name)
        except Wait as wait:
            task = wait.task
        yield task


@contextlib.contextmanager
def _held(fs: OverlayFs, inode: Inode) -> Iterator[None]:
    """Keep the inode in the table over the pauses."""
    inode.nopen += 1
    try:
        yield
    finally:
        inode.nopen -= 1
        fs.table.drop_if_unused(inode)
