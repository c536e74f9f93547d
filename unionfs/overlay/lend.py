"""Modes that an ordinary user's daemon lends itself for a moment, and that come back after a crash, too.

Each loan is noted in work before the mode changes, by a symlink `#...~lent` whose target says mode, lent
mode, inode number and path below upper: it is made in one step, and on disk before the mode is. The next
mount restores the modes (`restore`). Nothing here may lend on what is not in upper or work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from unionfs.overlay.layer import NAME_MAX
from unionfs.overlay.work import NOTE_SUFFIX, Work

_NOTE = re.compile(rb"([0-7]{1,4}) ([0-7]{1,4}) ([0-9]{1,20}) (.+)", re.DOTALL)
_MOST_TEXT = 1 << 20
"""The longest note that is read, in bytes."""
_RIGHTS = stat.S_IRWXU
"""What may be lent."""
_OR = b"//"
"""Between two paths of an object that moves meanwhile: a path has no empty component."""
_REACH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Lender:
    """Lends the owner's permissions on objects of *uid*; notes each loan in *work*, if there is one."""

    __slots__ = ("_root_fd", "_uid", "_work")

    def __init__(self, uid: int, root_fd: int, work: Work | None) -> None:
        self._uid = uid
        self._root_fd = root_fd
        self._work = work

    @contextlib.contextmanager
    def lent(self, fd: int, needed: int, lands: tuple[int, bytes] | None = None) -> Iterator[bool]:
        """Within this context the owner has the *needed* permissions on what *fd* (O_PATH) is open on.

        Yields whether that took a change of the mode, and with it of the change time. Does nothing for
        symlinks, for objects of others, and where the mode allows it anyway. *lands*: directory and name to
        which the object is moved meanwhile.
        """
        st = os.fstat(fd)
        if st.st_mode & needed == needed or st.st_uid != self._uid or stat.S_ISLNK(st.st_mode):
            yield False
            return
        mode = stat.S_IMODE(st.st_mode)
        path = b"/proc/self/fd/%d" % fd
        note = self._note(fd, st.st_ino, mode, mode | needed, lands)
        try:
            os.chmod(path, mode | needed)
        except BaseException:
            self._forget(note)
            raise
        try:
            yield True
        finally:
            # A note stays of what cannot be restored now: the next mount tries again.
            os.chmod(path, mode)
            self._forget(note)

    def _note(self, fd: int, ino: int, mode: int, lent: int, lands: tuple[int, bytes] | None) -> bytes | None:
        """Note a loan; None for what lies in work, and is cleared away after a crash."""
        if self._work is None:
            return None
        paths = [] if lands is None else [_path(lands[0]) + b"/" + lands[1]]
        root = _path(self._root_fd)
        below = [
            os.path.relpath(path, root)
            for path in [*paths, _path(fd)]
            if path == root or path.startswith(root + b"/")
        ]
        if not below:
            return None
        text = b"%o %o %d %s" % (mode, lent, ino, _OR.join(below))
        name = self._work.temp_name() + NOTE_SUFFIX
        try:
            os.symlink(text, name, dir_fd=self._work.fd)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            # Deeper than a symlink can say. As durable, but by a sync.
            with open(
                os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._work.fd), "wb"
            ) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        return name

    def _forget(self, note: bytes | None) -> None:
        if note is not None and self._work is not None:
            os.unlink(note, dir_fd=self._work.fd)

    def restore(self, note: Note) -> None:
        """Restore the mode that a note holds, if it is still that object with the lent one.

        The note may be anything that the owner of work has written, and this process root's: so what it does
        is never more than that its own user takes rights from the owner, who is the same, in upper.
        """
        match = _NOTE.fullmatch(note.text)
        if match is None:
            return
        mode, lent, ino = int(match[1], 8), int(match[2], 8), int(match[3])
        if mode & ~lent or lent & ~mode & ~_RIGHTS:
            return
        for path in match[4].split(_OR):
            if not _is_below(path):
                continue
            with contextlib.ExitStack() as stack:
                fd = self._reach(stack, path)
                if fd < 0:
                    continue
                st = os.fstat(fd)
                same = st.st_ino == ino and st.st_uid == note.uid and not stat.S_ISLNK(st.st_mode)
                if same and stat.S_IMODE(st.st_mode) == lent:
                    os.chmod(b"/proc/self/fd/%d" % fd, mode)
                    return

    def _reach(self, stack: contextlib.ExitStack, path: bytes) -> int:
        """Walk to an object of upper, also through closed directories; a negative number: it is not there."""
        fd = self._root_fd
        for name in path.split(b"/"):
            stack.enter_context(self.lent(fd, stat.S_IXUSR))
            try:
                fd = os.open(name, _REACH, dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    return -1
                raise
            stack.callback(os.close, fd)
        return fd


def _path(fd: int) -> bytes:
    return os.readlink(b"/proc/self/fd/%d" % fd)


def _is_below(path: bytes) -> bool:
    """Whether a note's path is one that `Lender` writes: it leads nowhere but to upper's root or below."""
    return path == b"." or all(
        name not in (b"", b".", b"..") and len(name) <= NAME_MAX and b"\0" not in name
        for name in path.split(b"/")
    )


@dataclass(frozen=True, slots=True)
class Note:
    """What a note says, and who has written it."""

    text: bytes
    uid: int


def restore(uid: int, root_fd: int, work: Work) -> None:
    """Restore the modes that a killed daemon had lent itself, by the notes that `Work` has found.

    The deepest object first: what is above it was lent to reach it.
    """
    lender = Lender(uid, root_fd, work)
    notes = [note for name in work.notes if (note := read_note(work.fd, name)) is not None]
    for note in sorted(notes, key=lambda note: note.text.count(b"/"), reverse=True):
        lender.restore(note)
    for name in work.notes:
        work.remove(name)
    work.notes = []


def read_note(dirfd: int, name: bytes) -> Note | None:
    """A note in work, for `Lender.restore`; None: it is none, but a FIFO (and not waited for) or the like."""
    st = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    if stat.S_ISLNK(st.st_mode):
        return Note(os.readlink(name, dir_fd=dirfd), st.st_uid)
    if not stat.S_ISREG(st.st_mode) or st.st_size > _MOST_TEXT:
        return None
    # A file: the note was too long for a symlink.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=dirfd), "rb") as file:
        return Note(file.read(_MOST_TEXT), st.st_uid)
