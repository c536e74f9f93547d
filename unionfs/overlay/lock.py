"""The locks on upper and work, by which one mount at a time has them.

`lock` takes them; `lock_and_check` then also looks at what only their holder may judge: what lies in work,
and whether the filesystem can hold marks (`probe.py`). A refusal leaves the directories as they were.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from unionfs.errors import MountError
from unionfs.overlay.check import check_work_content
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.foreign import refuse_foreign_use
from unionfs.overlay.layer import open_private
from unionfs.overlay.probe import try_marks
from unionfs.overlay.work import remove_tree

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class InUse(MountError):
    """Another mount has upper or work: `what` it has, and `by` which mount, with what to do."""

    def __init__(
        self,
        what: str,
        by: str = "another mount: unmount that one (`pyunionfs status` lists the mounts), or use other"
        " directories",
    ) -> None:
        super().__init__(f"{what} is in use by {by}")
        self.what = what


class Lock:
    """Upper and work, locked for one mount. Held until closed, also across fork.

    *share* goes without the lock where another has it; `shared` says that this was so. `whiteouts` is how
    deletions are to be recorded, if that was to be found out.
    """

    __slots__ = ("_fds", "_noted", "_origins", "_share", "_there", "_times", "shared", "whiteouts")

    def __init__(self, *, share: bool = False) -> None:
        self._share = share
        self.shared = False
        self.whiteouts: str | None = None
        self._fds: list[int] = []
        self._noted = False
        self._there: list[str] = []
        self._times = (0, 0)
        self._origins: tuple[str, ...] = ()

    def descriptors(self) -> tuple[int, ...]:
        """What holds it: a process that closes these does not hold it any longer."""
        return tuple(self._fds)

    def note_content(self) -> None:
        """Remember what is in work, and on upper's root, before the union is opened."""
        self._noted = True
        marks = os.listxattr(self._fds[0])
        self._origins = tuple(
            name
            for name in (f"{prefix}.overlay.origin" for prefix in ("trusted", "user"))
            if name not in marks
        )
        with self.work() as top:
            self._there = os.listdir(top)
            st = os.fstat(top)
        self._times = (st.st_atime_ns, st.st_mtime_ns)

    @contextlib.contextmanager
    def work(self) -> Iterator[int]:
        """A new descriptor of the work directory that is locked, whatever its path leads to by now."""
        fd = os.open(".", _OPEN_DIR, dir_fd=self._fds[1])
        try:
            yield fd
        finally:
            os.close(fd)

    def undo(self) -> None:
        """Remove what opening the union has made in work and on upper, after a mount that has failed."""
        if not self._noted:
            return
        for mark in self._origins:
            if mark in os.listxattr(self._fds[0]):
                os.removexattr(self._fds[0], mark)
        with self.work() as top:
            for name in ("index", "work"):
                if name not in self._there:
                    remove_tree(top, os.fsencode(name))
            # A volatile mark was not there before, else the mount would have been refused.
            with contextlib.suppress(FileNotFoundError):
                inside = os.open("work", _OPEN_DIR | os.O_NOFOLLOW, dir_fd=top)
                try:
                    remove_tree(inside, b"incompat")
                finally:
                    os.close(inside)
            os.utime(top, ns=self._times)

    def lock(self, kind: str, path: str) -> None:
        """Lock one of the two. InUse: another mount has it."""
        try:
            fd = open_private(path, _OPEN_DIR)
        except OSError as error:
            raise MountError(f"cannot open {kind} {path}: {error.strerror}") from error
        self._fds.append(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self._share:
                self.shared = True
                return
            raise InUse(f"{kind} {path}") from None
        except OSError as error:
            raise MountError(
                f"cannot lock {kind} {path}: {error.strerror}; put upper and work on a local filesystem"
            ) from error

    def lock_inner_work(self, work: str) -> None:
        """Lock `work/work/`; to be called when work was locked last.

        A mount that shares work may outlive the one that has its lock, and has a shared lock on this.
        """
        try:
            fd = os.open("work", _OPEN_DIR | os.O_NOFOLLOW, dir_fd=self._fds[-1])
        except OSError:
            return  # it is not of a mount of ours, which could be opened; what it is instead is checked later
        self._fds.append(fd)
        if not self.shared:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self._share:
                    raise InUse(f"work {work}") from None
                self.shared = True
        fcntl.flock(fd, fcntl.LOCK_SH if self.shared else fcntl.LOCK_UN)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def lock_and_check(config: UnionConfig) -> Lock:
    """Lock upper and work, and refuse what is wrong inside them. InUse: another mount has them."""
    held = lock(config)
    try:
        if config.upper is not None and config.work is not None:
            with held.work() as work:
                if os.geteuid() != 0 and not held.shared:
                    _remove_anothers(work)
                if not config.any_work:
                    check_work_content(config.upper, config.work, work)
                held.whiteouts = try_marks(config, work)
            if not held.shared:  # else what is in work is another mount's, too
                held.note_content()
    except BaseException:
        held.close()
        raise
    return held


def _remove_anothers(work: int) -> None:
    """Remove the `work/work` that root's mount has left, and that this user could neither enter nor change.

    It is empty; else it stays, and is judged as what it is.
    """
    with contextlib.suppress(OSError):
        if os.stat("work", dir_fd=work, follow_symlinks=False).st_uid != os.geteuid():
            os.rmdir("work", dir_fd=work)


def lock(config: UnionConfig) -> Lock:
    """Lock upper and work for this process, whatever lies in them. InUse: another mount has them."""
    held = Lock(share=config.shared_work)
    try:
        if config.upper is not None and config.work is not None:
            held.lock("upper", config.upper)
            held.lock("work", config.work)
            held.lock_inner_work(config.work)
            refuse_foreign_use(config.upper, config.work)
    except BaseException:
        held.close()
        raise
    return held
