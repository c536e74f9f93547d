"""Renaming a directory of a lower without a redirect: first all that it shows is brought into upper.

Where redirects may not be written (ordinary users, fuse-overlayfs's form), each object below the directory is
copied up where it is, by the same copy-ups as for a change. When all is there, a directory of which all names
are in upper is made opaque, innermost first, which no caller sees. At the end it is a directory of upper only
and moves as such. Each step leaves the same merged tree, so that a crash shows the tree as it was; inodes,
open files and hard links stay, and changes meanwhile are changes of the same objects. What fails, or is
not wanted any longer, is undone (`copy_journal.py`) up to the first opaque mark.
Must never make a directory opaque that shows a name which is not wholly in upper.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Generator, Iterator

from unionfs.linux import syscalls
from unionfs.overlay import aufs
from unionfs.overlay.access import PreserveParentTimes, set_mark
from unionfs.overlay.copy_journal import Journal
from unionfs.overlay.copy_up import ensure_upper, link_up, upper_dir
from unionfs.overlay.dir_cache import HIDDEN
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.layer import RealDir, is_whiteout_device
from unionfs.overlay.listing import unwatch, watch
from unionfs.overlay.namei import find
from unionfs.overlay.readdir import cache_of, note_upper
from unionfs.overlay.under_way import COPYING, READING, RENAME, SlowWork
from unionfs.overlay.wait import Task, Wait

_SLICE = 0.005
"""Seconds for which small objects are copied in one go, before other requests have their turn."""

_BTRFS = 0x9123683E


class _Pause:
    """Nothing to do: the other requests have their turn, and the operation is called again."""

    def run(self) -> None:
        pass

    def finish(self, error: BaseException | None) -> None:
        pass


def make_plain(fs: OverlayFs, directory: Directory) -> None:
    """Make a directory with lower parts one of upper only.

    Raises `Wait` until that is done; EXDEV above `rename_copy_bytes` and `rename_copy_files`, ENOSPC where
    there is no room. The first walk only measures, so that what is too large has copied nothing.
    """
    if not directory.lowers:
        return
    copy = fs.plain_steps.get(directory)
    if copy is None:
        copy = fs.plain_steps[directory] = TreeCopy(fs, directory)
    copy.advance()
    if directory.lowers:  # it was removed meanwhile, or is under a new name
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


class TreeCopy:
    """The copying of one directory, or its undoing. Owner of the waits that it asks for (`Owner`)."""

    __slots__ = (
        "_clones",
        "_directory",
        "_error",
        "_files",
        "_fs",
        "_journal",
        "_measured",
        "_progress",
        "_steps",
        "_to_copy",
        "_undoes",
        "_waits_for",
    )

    def __init__(self, fs: OverlayFs, directory: Directory) -> None:
        self._fs = fs
        self._directory = directory
        self._journal = Journal(fs)
        self._journal.hold(directory)
        # What may still be copied, and what there is to be copied that cannot share the lower's blocks.
        self._files = fs.config.rename_copy_files
        self._to_copy = 0
        self._clones: dict[int, bool] = {}
        self._progress: SlowWork | None = None
        self._error: BaseException | None = None
        self._measured = False
        self._undoes = False
        self._waits_for: Task | None = None
        self._steps: Iterator[Task | None] = self._all()

    def advance(self) -> None:
        """Go on for the operation that wants it. Raises `Wait`, and its failure once that is undone."""
        self._waits_for = None
        task = self._next()
        if task is not None:
            self._await(task)
            raise Wait(task, self)
        undone, error = self._undoes, self._error
        self._end()
        if isinstance(error, PermissionError):
            # An ordinary user's daemon may not read all of it: as without copying, the caller may try.
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if error is not None:
            raise error
        if undone:  # for another request, that was given up: from the beginning for this one
            raise Wait(_Pause())

    def note_change(self, inode: Inode) -> None:
        """Some request is about to change an object: what is in upper may soon be more than a copy."""
        self._journal.note_change(inode)

    def given_up(self, task: Task) -> Task | None:
        """*task* is over; unless the operation has gone on after it, undo, as far as goes in one slice."""
        if self._waits_for is not task:
            return None
        self._waits_for = None
        if not self._undoes:
            self._undo()
        following = self._next()
        if following is None:
            self._end()
        else:
            self._await(following)
        return following

    def _await(self, task: Task) -> None:
        self._waits_for = task
        if self._progress is None:
            self._progress = self._fs.under_way.begin(RENAME, self._directory)
            self._report()

    def _report(self) -> None:
        """Let `status` know the step, and how much there is to copy; None: nothing, or not known yet."""
        if self._progress is not None:
            self._progress.total = self._to_copy if self._measured and self._to_copy else None
            self._progress.enter(COPYING if self._measured else READING)

    def _next(self) -> Task | None:
        """Do a slice of it: what to wait for then, None at the end."""
        try:
            return self._slice()
        except OSError as error:
            self._error = error
        except BaseException:
            self._end()
            raise
        self._undo()
        return self._slice()

    def _slice(self) -> Task | None:
        until = time.monotonic() + _SLICE
        for task in self._steps:
            if task is not None:
                return task
            if time.monotonic() > until:
                return _Pause()
        return None

    def _undo(self) -> None:
        steps = self._steps
        if isinstance(steps, Generator):
            steps.close()  # which notes what was being copied
        self._undoes = True
        self._steps = self._journal.undo()

    def _end(self) -> None:
        self._fs.plain_steps.pop(self._directory, None)
        self._fs.under_way.end(self._progress)
        self._progress = None
        self._journal.close()

    # --- the steps -------------------------------------------------------------------------------

    def _all(self) -> Iterator[Task | None]:
        fs, directory = self._fs, self._directory
        yield from self._measure(directory)
        assert fs.upper is not None
        space = os.fstatvfs(fs.upper.root_fd)
        objects = fs.config.rename_copy_files - self._files
        if self._to_copy > space.f_bavail * space.f_frsize or (space.f_files and objects > space.f_favail):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before anything was copied
        self._measured = True
        self._report()
        yield from self._copy(directory)
        yield from self._close_all(directory)

    def _take(self, inode: Inode) -> None:
        """Count what is to be copied; EXDEV when that is too much, and `mv` then copies."""
        self._files -= 1
        if isinstance(inode, File) and not (inode.on_upper and not inode.metacopy):
            st = inode.lstat()
            if not self._shares(inode):
                self._to_copy += st.st_size
        if self._files < 0 or self._to_copy > self._fs.config.rename_copy_bytes:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def _shares(self, inode: File) -> bool:
        """Whether the copy of a lower file will share its blocks (reflink), as far as can be known before."""
        fs, place = self._fs, inode.lowdir
        if not fs.may_clone or inode.metacopy or place is None or fs.upper is None:
            return False
        root, upper = place.layer.root_fd, fs.upper.root_fd
        shares = self._clones.get(root)
        if shares is None:
            both_btrfs = syscalls.filesystem_type(root) == syscalls.filesystem_type(upper) == _BTRFS
            shares = self._clones[root] = both_btrfs or os.fstat(root).st_dev == os.fstat(upper).st_dev
        return shares

    def _measure(self, directory: Directory) -> Iterator[Task | None]:
        self._take(directory)
        with _held(self._fs, directory):
            for name in (yield from _names(self._fs, directory)):
                inode = yield from _find(self._fs, directory, name)
                if isinstance(inode, Directory) and inode.lowers:
                    yield from self._measure(inode)
                elif inode is not None:
                    self._take(inode)
                    self._fs.table.drop_if_unused(inode)
                yield None

    def _copy(self, directory: Directory) -> Iterator[Task | None]:
        """Copy up *directory* and all below it."""
        fs = self._fs
        with _held(fs, directory):
            if directory.parent is None:
                return
            self._copy_directory(directory)
            for name in (yield from _names(fs, directory)):
                inode = yield from _find(fs, directory, name)
                if isinstance(inode, Directory):
                    if inode.lowers:
                        yield from self._copy(inode)
                elif isinstance(inode, File) and not _is_plain(fs, directory, name, inode):
                    yield from self._copy_file(directory, name, inode)
                if inode is not None:
                    fs.table.drop_if_unused(inode)
                yield None

    def _copy_directory(self, directory: Directory) -> None:
        missing = []
        above: Directory | None = directory
        while above is not None and above.upper is None:
            missing.append(above)
            above = above.parent
        for each in reversed(missing):
            upper_dir(self._fs, each)
            self._journal.add_directory(each)

    def _copy_file(self, directory: Directory, name: bytes, inode: File) -> Iterator[Task | None]:
        fs = self._fs
        was_there, metacopy = inode.on_upper, inode.metacopy
        size = 0 if was_there or self._shares(inode) else inode.lstat().st_size
        with _held(fs, inode):
            try:
                while _has_name(inode, directory, name):
                    try:
                        ensure_upper(fs, inode, changes=False)
                        link_up(fs, inode, directory, name)
                        break
                    except Wait as wait:
                        task = wait.task
                    yield task
            finally:  # also when it is given up while a worker copies
                if not was_there and inode.on_upper:
                    self._journal.add_file(inode, directory, name, metacopy=metacopy)
        if self._progress is not None:
            self._progress.come_to(self._progress.done + size)

    def _close_all(self, directory: Directory) -> Iterator[Task | None]:
        """Make *directory* and all below it opaque, innermost first. Ends early where it was removed."""
        fs = self._fs
        with _held(fs, directory):
            changes = watch(directory)
            try:
                names: list[bytes] | None = None
                while directory.lowers and directory.parent is not None:
                    if names is None:
                        names = yield from _names(fs, directory)
                    for name in names:
                        inode = yield from _find(fs, directory, name)
                        if inode is None:
                            continue
                        if not _is_plain(fs, directory, name, inode):
                            changes.add(name)  # to be looked at once more
                            if isinstance(inode, Directory):
                                yield from self._close_all(inode)
                            elif isinstance(inode, File):
                                yield from self._copy_file(directory, name, inode)
                        fs.table.drop_if_unused(inode)
                        yield None
                    if not changes:
                        # From the last look at the names to here no other request had its turn.
                        yield from self._close_off(directory)
                        return
                    names = None if changes.all else list(changes.names)
                    changes.names.clear()
                    changes.all = False
                    if directory.upper is None:
                        self._copy_directory(directory)
            finally:
                unwatch(directory, changes)

    def _close_off(self, directory: Directory) -> Iterator[Task | None]:
        """All its names are in upper at this moment: mark it opaque, then remove its whiteouts."""
        fs, cache = self._fs, directory.cache
        upper = upper_dir(fs, directory)
        if not directory.opaque:
            path, follow = directory.proc_path()
            set_mark(fs, path, fs.format.opaque, b"y", follow=follow)
            if fs.aufs:
                aufs.mark_opaque(fs, upper)
        directory.opaque = True
        directory.lowers = ()
        directory.cache = None
        fs.attrs_to_invalidate.append(directory.ino)
        for name in [] if cache is None else [name for name, at in cache.upper.items() if at is HIDDEN]:
            yield None
            # Below an opaque directory it hides nothing: should it stay, that does no harm.
            with contextlib.suppress(OSError):
                self._unhide(directory, upper, name)

    def _unhide(self, directory: Directory, upper: RealDir, name: bytes) -> None:
        fs = self._fs
        if directory.parent is None or directory.upper is not upper:
            return
        if fs.aufs:
            with PreserveParentTimes(fs, upper):
                aufs.unhide(upper, name)
            return
        st = upper.lstat(name)  # something may have taken its place meanwhile
        if st is not None and is_whiteout_device(st):
            with PreserveParentTimes(fs, upper):
                os.unlink(name, dir_fd=upper.open())
            note_upper(directory, name, None)


def _has_name(inode: File, directory: Directory, name: bytes) -> bool:
    return (inode.parent, inode.name) == (directory, name) or (directory, name) in (inode.aliases or ())


def _is_plain(fs: OverlayFs, directory: Directory, name: bytes, inode: Inode) -> bool:
    """Whether upper has the object at this very name, and all of it."""
    if isinstance(inode, Directory):
        return inode.upper is not None and not inode.lowers
    assert isinstance(inode, File)
    if not inode.on_upper or inode.metacopy or inode.pending is not None:
        return False
    assert directory.cache is not None
    there = directory.cache.upper.get(name)
    return there is not None and there is not HIDDEN


def _names(fs: OverlayFs, directory: Directory) -> Generator[Task | None, None, list[bytes]]:
    while True:
        try:
            return cache_of(fs, directory).names()
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
