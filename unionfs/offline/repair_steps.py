"""What `pyunionfs check --repair` does to upper and work: small steps, each safe by itself at any moment.

A step verifies the object again before it acts, so that one which is run later or twice does no harm, and an
interruption leaves the object either unchanged or repaired. No step writes a lower, removes anything of upper
that has content, or changes what the union shows of a file; times of directories are restored.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Protocol

from unionfs.linux.syscalls import syncfs
from unionfs.offline.stack import Stack
from unionfs.overlay.access import LIST, PLACE, WRITE, OwnerAccess, PreserveParentTimes, set_mark
from unionfs.overlay.format import WHITEOUT_PREFIX
from unionfs.overlay.layer import RealDir, is_mark_file, is_whiteout_device
from unionfs.overlay.lend import Lender, read_note
from unionfs.overlay.work import NOTE_SUFFIX, remove_tree

_NOT_SET = (errno.ENODATA, errno.EOPNOTSUPP)


class RepairStep(Protocol):
    """One step of a repair."""

    def apply(self, stack: Stack) -> str:
        """Repair, and return what was done as text. Raises OSError where that fails, with nothing changed."""


class ChangedError(OSError):
    """The object has changed since the check."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "it has changed since the check: run the check again")


@dataclass(frozen=True, slots=True)
class RemoveWhiteout:
    """Remove a whiteout that hides nothing, of any form, from a directory of upper."""

    directory: bytes
    name: bytes

    def apply(self, stack: Stack) -> str:
        fs = stack.fs
        real = stack.upper_dir(self.directory)
        aufs = WHITEOUT_PREFIX + self.name
        found = []
        st = real.lstat(self.name)
        if st is not None and (is_whiteout_device(st) or fs.format.is_whiteout_file(real, self.name, st)):
            found.append(self.name)
        mark = real.lstat(aufs)
        if mark is not None and is_mark_file(mark) and mark.st_size == 0:
            found.append(aufs)
        if not found:
            raise ChangedError
        with PreserveParentTimes(fs, real):
            for name in found:
                os.unlink(name, dir_fd=real.open())
        return "the whiteout was removed"


@dataclass(frozen=True, slots=True)
class ChangeMarks:
    """Set some marks of an object in upper (or in work), then remove others.

    *place* is "upper" or "index"; *path* is relative to it, b"" for that directory itself. *was* is what a
    mark that will be changed must still be.
    """

    path: bytes
    done: str
    place: str = "upper"
    put: dict[str, bytes] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    was: dict[str, bytes] = field(default_factory=dict)

    def apply(self, stack: Stack) -> str:
        fs = stack.fs
        holder, name_there = self._reach(stack)
        path, follow = (holder.proc_path(name_there), False) if name_there else (_proc_path(holder), True)
        for name, value in self.was.items():
            if fs.format.read(path, name, follow=follow) != value:
                raise ChangedError
        for name, value in self.put.items():
            set_mark(fs, path, name, value, follow=follow)
        for name in self.remove:
            with OwnerAccess(fs, path, WRITE, follow=follow):
                try:
                    os.removexattr(path, name, follow_symlinks=follow)
                except OSError as error:
                    if error.errno not in _NOT_SET:
                        raise
        return self.done

    def _reach(self, stack: Stack) -> tuple[RealDir, bytes]:
        """A directory and the object's name in it, which is empty for the directory itself."""
        if self.place == "index":
            return stack.work.child(b"index"), self.path
        above, _, name = self.path.rpartition(b"/")
        return stack.upper_dir(above), name


def _proc_path(directory: RealDir) -> bytes:
    return b"/proc/self/fd/%d" % directory.open()


@dataclass(frozen=True, slots=True)
class RepairAll:
    """Steps of one kind for one reason."""

    steps: tuple[RepairStep, ...]
    done: str

    def apply(self, stack: Stack) -> str:
        for step in self.steps:
            stack.fs.dirfds.trim()
            step.apply(stack)
        return self.done


def is_temporary(name: bytes) -> bool:
    """Whether a name in work/work is a temporary one of overlayfs and this program, or of fuse-overlayfs."""
    return name.startswith(b"#") or name.isdigit()


@dataclass(frozen=True, slots=True)
class RemoveTemporary:
    """Remove a temporary object from work/work or work/index, recursively."""

    inside: bytes
    name: bytes

    def apply(self, stack: Stack) -> str:
        if not is_temporary(self.name):
            raise ChangedError
        real = stack.work.child(self.inside)
        with OwnerAccess(stack.fs, _proc_path(real), PLACE, follow=True):
            if self.name.endswith(NOTE_SUFFIX):
                # As the next mount would.
                lender = Lender(os.geteuid(), stack.upper.root_fd, None)
                note = read_note(real.open(), self.name)
                if note is not None:
                    lender.restore(note)
            remove_tree(real.open(), self.name)
        return "it was removed"


@dataclass(frozen=True, slots=True)
class RemoveIndexEntry:
    """Remove an entry of work/index that no lookup uses.

    Never the only link to data, unless *orphan* says that its file has no name in the union.
    """

    name: bytes
    orphan: bool = False

    def apply(self, stack: Stack) -> str:
        real = stack.work.child(b"index")
        st = real.lstat(self.name)
        if st is None or (st.st_nlink < 2 and st.st_size and stat.S_ISREG(st.st_mode) and not self.orphan):
            raise ChangedError
        with OwnerAccess(stack.fs, _proc_path(real), PLACE, follow=True):
            if stat.S_ISDIR(st.st_mode):
                os.rmdir(self.name, dir_fd=real.open())
            else:
                os.unlink(self.name, dir_fd=real.open())
        return "the entry was removed"


@dataclass(frozen=True, slots=True)
class RemoveVolatile:
    """Sync upper, then remove the mark of a volatile mount."""

    def apply(self, stack: Stack) -> str:
        syncfs(stack.upper.root_fd)
        work = stack.work.child(b"work")
        with OwnerAccess(stack.fs, _proc_path(work), PLACE, follow=True):
            incompat = work.child(b"incompat")
            with OwnerAccess(stack.fs, _proc_path(incompat), PLACE | LIST, follow=True):
                remove_tree(incompat.open(), b"volatile")
                more = os.listdir(_proc_path(incompat))
            if not more:
                os.rmdir(b"incompat", dir_fd=work.open())
        return "upper was synced and the mark removed"
