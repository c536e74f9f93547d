"""The work directory: private objects under preparation, whiteouts, and clearing away what a crash left.

Layout as overlayfs's: `work/work/#<hex>` for temporary objects, `work/index/` for hard links by origin, and
`work/work/incompat/volatile` while a volatile mount is up or did not end well. Objects in here are private:
only a rename or a link makes them part of upper.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from unionfs.errors import MountError
from unionfs.linux import syscalls
from unionfs.linux.as_owner import open_as_owner
from unionfs.overlay.config import UnionConfig

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REACH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LEVELS = 64
_WHITEOUT_MODE = stat.S_IFCHR
MARK_MODE = stat.S_IFREG | stat.S_IRUSR | stat.S_IWUSR
"""Of the files that AUFS has for marks."""

NOTE_SUFFIX = b"~lent"
"""Of the names of notes that `lend.py` keeps in here."""


def _names(dirfd: int) -> list[bytes]:
    """What a directory holds, by a new descriptor: through an old one btrfs shows what was there then."""
    fd = os.open(b".", _OPEN_DIR, dir_fd=dirfd)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


class _Level:
    """A directory that is being removed: open on it, and the names that are left in it."""

    __slots__ = ("_st", "fd", "name", "names")

    def __init__(self, above: int, name: bytes) -> None:
        self.name = name
        self.fd = os.open(name, _REACH, dir_fd=above)
        try:
            self._st = os.fstat(self.fd)
            try:
                self.names = _names(self.fd)
            except PermissionError:
                self._open_up()
                self.names = _names(self.fd)
        except BaseException:
            self.close()
            raise

    def _open_up(self) -> None:
        """It may lack its owner's permissions, which stop an ordinary user's daemon."""
        os.chmod(b"/proc/self/fd/%d" % self.fd, stat.S_IRWXU)

    def removes(self, name: bytes) -> bool:
        """Remove what is no directory; False: it is one."""
        try:
            return _removed(self.fd, name)
        except PermissionError:
            self._open_up()
            return _removed(self.fd, name)

    def removes_empty(self, name: bytes) -> None:
        try:
            os.rmdir(name, dir_fd=self.fd)
        except PermissionError:
            self._open_up()
            os.rmdir(name, dir_fd=self.fd)

    def reopen(self, below: int) -> None:
        """Open it again from a directory in it. ESTALE: that was moved, and what is above is another one."""
        if self.fd < 0:
            self.fd = os.open(b"..", _REACH, dir_fd=below)
            if not os.path.samestat(os.fstat(self.fd), self._st):
                raise OSError(errno.ESTALE, "a directory was moved while it was removed")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def remove_tree(dirfd: int, name: bytes) -> None:
    """Remove an object of any type that only this daemon can reach; what is below it, first.

    Whatever its depth: calls are not nested, and of the directories on the way only some are open.
    """
    if _removed(dirfd, name):
        return
    levels = [_Level(dirfd, name)]
    try:
        while True:
            level = levels[-1]
            if level.names:
                inner = level.names.pop()
                if not level.removes(inner):
                    levels.append(_Level(level.fd, inner))
                    if len(levels) > _OPEN_LEVELS:
                        levels[-_OPEN_LEVELS - 1].close()
                continue
            if len(levels) == 1:
                break
            outer = levels[-2]
            outer.reopen(level.fd)
            levels.pop().close()
            outer.removes_empty(level.name)
    finally:
        for level in levels:
            level.close()
    os.rmdir(name, dir_fd=dirfd)


def _removed(dirfd: int, name: bytes) -> bool:
    """Remove what is no directory; False: it is one."""
    try:
        os.unlink(name, dir_fd=dirfd)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        return False
    return True


class Litter:
    """A temporary object that was moved out of the way, to be removed with all that is in it."""

    __slots__ = ("_name", "_work")

    def __init__(self, work: Work, name: bytes) -> None:
        self._work = work
        self._name = name

    def run(self) -> None:
        """See `wait.BackgroundJob`."""
        try:
            self._work.remove(self._name)
        except OSError as error:
            text = f"cannot clear {os.fsdecode(self._name)} in work (the next mount will): {error.strerror}"
            raise OSError(error.errno, text) from error


class Work:
    """The temporary part of a work directory, open for the life of a mount."""

    __slots__ = ("_counter", "_mode", "_prefix", "_top", "_whiteout", "fd", "index_fd", "notes")

    def __init__(self, top: int, config: UnionConfig) -> None:
        """Take over the work directory *top* (a descriptor) and clear what is left in it.

        MountError where a volatile mount has left its mark, unless `any_work` says to ignore it.
        """
        self._top = top
        self._mode = MARK_MODE if config.whiteouts == "aufs" else _WHITEOUT_MODE
        # A mount that shares it must neither use nor remove the names of others.
        self._prefix = b"#%s-" % os.urandom(4).hex().encode() if config.shared_work else b"#"
        self._counter = 0
        # Names of notes that a killed daemon has left (`lend.restore`).
        self.notes: list[bytes] = []
        self._whiteout: bytes | None = None
        self.fd = self.index_fd = -1
        try:
            self.fd = self._make(b"work")
            if not config.shared_work:
                self._clear(respect_mark=not config.any_work)
            if config.volatile and not config.any_work:
                os.mkdir(b"incompat", 0o700, dir_fd=self.fd)
                os.mkdir(b"incompat/volatile", 0o700, dir_fd=self.fd)
                os.mknod(b"incompat/volatile/dirty", stat.S_IFREG, dir_fd=self.fd)
            if config.index:
                self.index_fd = self._make(b"index")
                # overlayfs prepares its objects in here when it has an index.
                self._remove_temporary(self.index_fd, b"#")
        except BaseException:
            self._close_fds()
            raise

    def _make(self, name: bytes) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._top)
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._top)
        try:
            # What is made in here must inherit neither an ACL nor a group from where work lies.
            path = b"/proc/self/fd/%d" % fd
            for acl in ("system.posix_acl_default", "system.posix_acl_access"):
                try:
                    os.removexattr(path, acl)
                except OSError as error:
                    if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                        raise
            if name == b"work" and os.geteuid() == 0:
                # Its owner could replace what is prepared in it. In a user namespace it may have to stay.
                with contextlib.suppress(PermissionError):
                    os.chown(path, 0, 0)
            # Mode 0 as ovl_workdir_create() has it, but where that would stop an ordinary user's daemon.
            own_root = os.geteuid() == 0 and os.stat(path).st_uid == 0
            os.chmod(path, 0 if own_root else stat.S_IRWXU)
            return os.open(b".", _OPEN_DIR, dir_fd=fd)
        finally:
            os.close(fd)

    def _clear(self, *, respect_mark: bool) -> None:
        names = _names(self.fd)
        # As overlayfs, which asks what is in it: container engines remove the mark and leave the directory.
        if respect_mark and b"incompat" in names and self._holds(b"incompat"):
            raise MountError(
                "the work directory was used by a volatile mount, so upper may be incomplete on disk:"
                " look at it with `pyunionfs check LOWERS UPPER WORK`; if nothing was lost,"
                " `--repair --accept-volatile` there makes it usable; else start with a new upper and work"
            )
        for name in names:
            if name.endswith(NOTE_SUFFIX):
                self.notes.append(name)
            else:
                remove_tree(self.fd, name)
        if self.notes:
            # Not to meet their names again.
            self._counter = int.from_bytes(os.urandom(4)) << 32

    def _holds(self, name: bytes) -> bool:
        try:
            fd = os.open(name, _OPEN_DIR, dir_fd=self.fd)
        except PermissionError:
            # The kernel makes its directories in work with mode 0.
            try:
                fd = open_as_owner(self.fd, name, _OPEN_DIR)
            except PermissionError:
                return True
        try:
            return bool(os.listdir(fd))
        finally:
            os.close(fd)

    @staticmethod
    def _remove_temporary(dirfd: int, prefix: bytes) -> None:
        for name in _names(dirfd):
            # The dash is another mount's, which has come while this one was there.
            if name.startswith(prefix) and b"-" not in name[len(prefix) :]:
                remove_tree(dirfd, name)

    def temp_name(self) -> bytes:
        """A name that nothing in here has."""
        self._counter += 1
        return b"%s%x" % (self._prefix, self._counter)

    def fd_path(self, name: bytes) -> bytes:
        """A path to a temporary object for calls that take no directory descriptor."""
        return b"/proc/self/fd/%d/%s" % (self.fd, name)

    def mkdir(self, mode: int = 0o700) -> bytes:
        name = self.temp_name()
        os.mkdir(name, mode, dir_fd=self.fd)
        return name

    def remove(self, name: bytes) -> None:
        """Remove a temporary object with all that is in it."""
        remove_tree(self.fd, name)

    def whiteout(self) -> bytes:
        """A new whiteout under a temporary name."""
        name = self.temp_name()
        self.link_whiteout(self.fd, name)
        return name

    def cover(self, dirfd: int, name: bytes) -> None:
        """Put a whiteout in the place of a file, in one step."""
        whiteout = self.whiteout()
        try:
            os.rename(whiteout, name, src_dir_fd=self.fd, dst_dir_fd=dirfd)
        except BaseException:
            self.remove(whiteout)
            raise

    def link_whiteout(self, dirfd: int, name: bytes) -> None:
        """Make *name*, which must not exist, a whiteout: one atomic step.

        All whiteouts are links of one inode, as overlayfs's are, until the filesystem refuses more links.
        """
        for _ in range(2):
            if self._whiteout is None:
                shared = self.temp_name()
                os.mknod(shared, self._mode, os.makedev(0, 0), dir_fd=self.fd)
                self._whiteout = shared
            try:
                os.link(self._whiteout, name, src_dir_fd=self.fd, dst_dir_fd=dirfd, follow_symlinks=False)
                return
            except OSError as error:
                # ENOENT: another program has cleared work, which must not stop every deletion.
                if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.ENOENT):
                    raise
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._whiteout, dir_fd=self.fd)
            self._whiteout = None
        os.mknod(name, self._mode, os.makedev(0, 0), dir_fd=dirfd)

    def place(self, name: bytes, dirfd: int, target: bytes) -> None:
        """Rename a prepared object to where nothing is yet; never replaces anything."""
        syscalls.renameat2(self.fd, name, dirfd, target, syscalls.RENAME_NOREPLACE)

    def close(self) -> None:
        """Clear away what is temporary. A volatile mark stays, as overlayfs's does."""
        try:
            self._whiteout = None
            self._remove_temporary(self.fd, self._prefix)
        finally:
            self._close_fds()

    def _close_fds(self) -> None:
        for fd in (self.fd, self.index_fd, self._top):
            if fd >= 0:
                os.close(fd)
        self.fd = self.index_fd = self._top = -1
