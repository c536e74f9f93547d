"""What is refused before a union is opened, because it could not work or would lose data.

`check` looks at the directories; `lock` takes upper and work for this process (`take` does only that) and
then looks at what only their holder may judge: what lies in work, and whether the filesystem can hold marks
(`probe.py`). A refusal is a `MountError` with one line for people and leaves the directories as they were.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from unionfs.errors import MountError, explain
from unionfs.linux import mount as mounts
from unionfs.linux.as_owner import open_as_owner
from unionfs.linux.mount import MountPoint
from unionfs.overlay.config import UnionConfig
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
    """Upper and work, taken for one mount. Held until closed, also across fork.

    *share* goes without the lock where another has it; `shared` says that this was so. `whiteouts` is how
    deletions are to be recorded, if that was to be found out.
    """

    __slots__ = ("_fds", "_origins", "_share", "_there", "_times", "_work", "shared", "whiteouts")

    def __init__(self, *, share: bool = False) -> None:
        self._share = share
        self.shared = False
        self.whiteouts: str | None = None
        self._fds: list[int] = []
        self._work: str | None = None
        self._there: list[str] = []
        self._times = (0, 0)
        self._origins: tuple[str, ...] = ()

    def descriptors(self) -> tuple[int, ...]:
        """What holds it: a process that closes these has let go."""
        return tuple(self._fds)

    def note(self, work: str) -> None:
        """Remember what is in work, and on upper's root, before the union is opened."""
        self._work = work
        marks = os.listxattr(self._fds[0])
        self._origins = tuple(
            name
            for name in (f"{prefix}.overlay.origin" for prefix in ("trusted", "user"))
            if name not in marks
        )
        self._there = os.listdir(work)
        st = os.stat(work)
        self._times = (st.st_atime_ns, st.st_mtime_ns)

    def undo(self) -> None:
        """Take away what opening the union has made in work and on upper, after a mount that has failed."""
        if self._work is None:
            return
        for mark in self._origins:
            if mark in os.listxattr(self._fds[0]):
                os.removexattr(self._fds[0], mark)
        top = os.open(self._work, _OPEN_DIR)
        try:
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
        finally:
            os.close(top)

    def take(self, kind: str, path: str) -> None:
        fd = open_private(path, _OPEN_DIR)
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

    def heed_sharers(self, work: str) -> None:
        """To be called when work was taken last.

        Who shares may outlive the one who has the lock, and holds another one, on the inner work.
        """
        try:
            fd = os.open("work", _OPEN_DIR | os.O_NOFOLLOW, dir_fd=self._fds[-1])
        except OSError:
            return  # it is not of a mount of ours, which could be opened; what it is instead is told later
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


def check(config: UnionConfig, mountpoint: str, *, writable: bool = True) -> None:
    """Refuse what a look at the directories shows. Changes nothing.

    *writable* False: upper and work are only going to be looked at.
    """
    for kind, path in _lowers(config):
        _check_directory(kind, path)
    if config.upper is not None and config.work is not None:
        _check_upper(config, config.upper, config.work, mountpoint, writable=writable)
    if not config.any_work:  # fuse-overlayfs takes them, and so its callers do
        _check_overlap(config)


def _check_upper(config: UnionConfig, upper: str, work: str, mountpoint: str, *, writable: bool) -> None:
    for kind, path in (("upper", upper), ("work", work)):
        _check_directory(kind, path)
        if writable:
            _check_writable(kind, path)
    _check_one_filesystem(upper, work)
    _check_nesting(config, mountpoint)


def lock(config: UnionConfig) -> Lock:
    """Take upper and work for this process, and refuse what is wrong inside them. InUse: another has them."""
    taken = take(config)
    try:
        if config.upper is not None and config.work is not None:
            if not config.any_work:
                _check_work_content(config.upper, config.work)
            taken.whiteouts = try_marks(config)
            if not taken.shared:  # else what is in work is another's, too
                taken.note(config.work)
    except BaseException:
        taken.close()
        raise
    return taken


def take(config: UnionConfig) -> Lock:
    """Take upper and work for this process, whatever lies in them. InUse: another mount has them."""
    taken = Lock(share=config.shared_work)
    try:
        if config.upper is not None and config.work is not None:
            taken.take("upper", config.upper)
            taken.take("work", config.work)
            taken.heed_sharers(config.work)
            _check_other_programs(config.upper, config.work)
    except BaseException:
        taken.close()
        raise
    return taken


def _check_directory(kind: str, path: str) -> None:
    try:
        fd = os.open(path, _OPEN_DIR)
    except FileNotFoundError:
        raise MountError(f"{kind} {path} does not exist: create it, or correct the path") from None
    except NotADirectoryError:
        what = (
            "is not a directory"
            if os.path.lexists(path)
            else "does not exist (something above it is no directory)"
        )
        raise MountError(f"{kind} {path} {what}: a layer must be a directory") from None
    except PermissionError:
        raise MountError(f"{kind} {path} cannot be read by {_me()}: change its mode or owner") from None
    except OSError as error:
        raise MountError(f"{kind} {path} cannot be opened: {_reason(error)}") from error
    os.close(fd)
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        raise MountError(f"{kind} {path} cannot be searched by {_me()}: give {_me()} r and x on it")


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOTCONN:
        return "a FUSE mount whose daemon has died lies there or above it: unmount that one first"
    return explain(OSError(error.errno, error.strerror or str(error)))


def _me() -> str:
    return "root" if os.geteuid() == 0 else f"user {os.geteuid()}"


def _check_writable(kind: str, path: str) -> None:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise MountError(
            f"{kind} {path} is on a read-only filesystem: choose a writable one, or mount without UPPER and"
            " WORK for a"
            " read-only union"
        )
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise MountError(f"{kind} {path} cannot be written by {_me()}: change its owner or mode")


def _check_one_filesystem(upper: str, work: str) -> None:
    same_device = os.stat(upper).st_dev == os.stat(work).st_dev
    if not same_device or _mount_id(upper) != _mount_id(work):
        what = "two mounts of one filesystem" if same_device else "different filesystems"
        raise MountError(
            f"upper {upper} and work {work} are on {what}: objects are prepared in work and renamed into"
            " upper, so put"
            " work beside upper"
        )


def _mount_id(path: str) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return mounts.mount_id_of(fd)
    finally:
        os.close(fd)


def _check_nesting(config: UnionConfig, mountpoint: str) -> None:
    assert config.upper is not None
    assert config.work is not None
    table = {entry.mount_id: entry for entry in mounts.mount_table()}
    upper = place_of(config.upper, table)
    work = place_of(config.work, table)
    if upper == work:
        raise MountError(
            f"upper and work are the same directory {config.upper}: make an empty one for work beside it"
        )
    for outer, inner, text in (
        (upper, work, f"work {config.work} is inside upper {config.upper}"),
        (work, upper, f"upper {config.upper} is inside work {config.work}"),
    ):
        if within(inner, outer):
            raise MountError(f"{text}: they must lie beside each other")
    if config.work == mountpoint or mountpoint.startswith(config.work + "/"):
        raise MountError(f"the mountpoint {mountpoint} is in work {config.work}: mount somewhere else")
    for what, path in _lowers(config):
        lower = place_of(path, table)
        for kind, mine, place in (("upper", config.upper, upper), ("work", config.work, work)):
            if place == lower:
                raise MountError(
                    f"{kind} {mine} is also the {what} {path}: lowers are never written, so use another"
                    " directory"
                )
            if within(place, lower) or within(lower, place):
                relation = "inside" if within(place, lower) else "around"
                raise MountError(
                    f"{kind} {mine} lies {relation} the {what} {path}: lowers must not change while they are"
                    " mounted, so"
                    " use a directory apart from it"
                )


def _check_overlap(config: UnionConfig) -> None:
    """No lower may be another one or lie inside it (ovl_setup_trap() and ovl_check_layer(): ELOOP)."""
    if len(config.lowers) + len(config.data_lowers) < 2:
        return
    table = {entry.mount_id: entry for entry in mounts.mount_table()}
    seen: dict[Place, str] = {}
    for kind, path in _lowers(config):
        place = place_of(path, table)
        if place in seen:
            raise MountError(
                f"{kind} {path} is given twice (it is {seen[place]}, too): leave one of them out"
            )
        seen[place] = path
    for (device, parts), path in seen.items():
        for length in range(len(parts)):
            outer = seen.get((device, parts[:length]))
            if outer is not None:
                raise MountError(
                    f"lower {path} lies inside the lower {outer}: one object would be shown at two"
                    " places, so use directories apart from each other"
                )


def _lowers(config: UnionConfig) -> Iterator[tuple[str, str]]:
    """Every layer that is never written, and what it is called."""
    for path in config.lowers:
        yield "lower", path
    for path in config.data_lowers:
        yield "data-only layer", path


def directories(config: UnionConfig) -> Iterator[tuple[str, str]]:
    """Every directory of the union, and what it is called."""
    yield from _lowers(config)
    if config.upper is not None and config.work is not None:
        yield "upper", config.upper
        yield "work", config.work


Place = tuple[tuple[int, int], tuple[str, ...]]


def place_of(path: str, table: dict[int, MountPoint]) -> Place:
    """Where a directory lies in its filesystem, so that bind mounts of one tree are seen to be the same."""
    entry = table.get(_mount_id(path))
    if entry is None:  # a mount outside of this process's root directory: all that is known is the path
        return (-1, os.stat(path).st_dev), _parts(path)
    below = os.path.relpath(path, entry.path)
    return entry.device, _parts(entry.root) + (() if below == "." else _parts(below))


def place_by_table(path: str, table: list[MountPoint]) -> Place | None:
    """The same without a look at it, for a real path: it is on what is mounted last at or above it."""
    parts = _parts(path)
    found, length = None, -1
    for entry in table:
        at = _parts(entry.path)
        if len(at) >= length and parts[: len(at)] == at:
            found, length = entry, len(at)
    return None if found is None else (found.device, _parts(found.root) + parts[length:])


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def within(inner: Place, outer: Place) -> bool:
    """Whether `inner` lies below `outer` or is the same."""
    return inner[0] == outer[0] and inner[1][: len(outer[1])] == outer[1]


def _check_other_programs(upper: str, work: str) -> None:
    """Kernel overlayfs and fuse-overlayfs take no lock that we could see; the mount table tells."""
    mine = {_identity(upper): ("upper", upper), _identity(work): ("work", work)}
    for _, program, path, where in foreign_directories():
        used = mine.get(_identity(path))
        if used is not None:
            kind, name = used
            raise MountError(
                f"{kind} {name} is in use by {program} mounted at {where}: two writers would destroy it; run"
                f" `umount {where}` first, or use other directories"
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        st = os.stat(path)
    except OSError:  # a directory that another mount named and that is gone, or that we may not see
        return None
    return st.st_dev, st.st_ino


def foreign_directories() -> Iterator[tuple[str, str, str, str]]:
    """(upper or work, program, directory, mountpoint) of every one that other union filesystems use here."""
    fuse_overlayfs = None
    for entry in mounts.mount_table():
        if entry.fstype == "overlay":
            for name in ("upperdir", "workdir"):
                path = entry.super_option(name)
                # A relative path is relative to a directory that nobody knows any more.
                if path is not None and path.startswith("/"):
                    yield name.removesuffix("dir"), "kernel overlayfs", path, entry.path
        elif entry.fstype == "fuse.fuse-overlayfs":
            fuse_overlayfs = entry.path
    if fuse_overlayfs is not None:
        # Its mounts do not tell their layers; its command lines do.
        for process in os.listdir("/proc"):
            if process.isdigit():
                for name, path in _fuse_overlayfs_directories(process):
                    yield name.removesuffix("dir"), "fuse-overlayfs", path, fuse_overlayfs


def _fuse_overlayfs_directories(pid: str) -> list[tuple[str, str]]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = [os.fsdecode(argument) for argument in file.read().split(b"\0")]
        if os.path.basename(arguments[0]) != "fuse-overlayfs":
            return []
        cwd = os.readlink(f"/proc/{pid}/cwd")
    except (OSError, IndexError):  # it ended meanwhile, or is another user's
        return []
    words = (word for argument in arguments for word in argument.removeprefix("-o").split(","))
    named = (word.partition("=") for word in words)
    wanted = ("upperdir", "workdir")
    return [(name, os.path.join(cwd, path)) for name, _, path in named if name in wanted and path]


def _features(work: str) -> list[str]:
    """The features of overlayfs that a mount has used there and that forbid another one.

    The kernel makes these directories with mode 0, also for an ordinary user in a user namespace.
    """
    try:
        return os.listdir(f"{work}/work/incompat")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        pass
    fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        incompat = open_as_owner(fd, b"work/incompat", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:  # another user's; nothing else makes it than volatile
        return ["volatile"]
    finally:
        os.close(fd)
    try:
        return os.listdir(incompat)
    finally:
        os.close(incompat)


def _check_work_content(upper: str, work: str) -> None:
    foreign = sorted(set(os.listdir(work)) - {"work", "index"})
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise MountError(
            f"work {work} is not empty and not a work directory (it holds {shown}): give an empty"
            " directory; whatever"
            " is in work is deleted"
        )
    features = _features(work)
    if "volatile" in features:
        raise MountError(
            f"work {work} was used by a volatile mount, so upper {upper} may lack data after a crash:"
            f" look at it with `pyunionfs check LOWERS {upper} {work}`; if nothing was lost,"
            " `--repair --accept-volatile` there makes it usable; else start with a new upper and work"
        )
    if features:
        raise MountError(
            f"work {work} was used with the overlayfs feature {features[0]!r}, which this program does not"
            " know: mount it"
            " with kernel overlayfs, or start with a new upper and work"
        )
