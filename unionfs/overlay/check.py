"""What is refused before a union is opened, because it could not work or would lose data.

`check` looks at the directories, `check_work_content` at what only a process that has locked work may judge.
A refusal is a `MountError` with one line for people and leaves the directories as they were.
"""

from __future__ import annotations

import errno
import os

from unionfs.errors import MountError, explain
from unionfs.linux import mount
from unionfs.linux.as_owner import open_as_owner
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.place import Place, mount_id_of, place_of, within

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def check(config: UnionConfig, mountpoint: str, *, writable: bool = True) -> None:
    """Refuse what a look at the directories shows. Changes nothing.

    *writable* False: upper and work are only going to be looked at.
    """
    for kind, path in config.lower_directories():
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
    # The mode of an upper is that of the union's root, which its owner may close to himself (`lend.py`).
    own = kind == "upper" and os.stat(path).st_uid == os.geteuid()
    if not own and not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise MountError(f"{kind} {path} cannot be written by {_me()}: change its owner or mode")


def _check_one_filesystem(upper: str, work: str) -> None:
    same_device = os.stat(upper).st_dev == os.stat(work).st_dev
    if not same_device or mount_id_of(upper) != mount_id_of(work):
        what = "two mounts of one filesystem" if same_device else "different filesystems"
        raise MountError(
            f"upper {upper} and work {work} are on {what}: objects are prepared in work and renamed into"
            " upper, so put"
            " work beside upper"
        )


def _check_nesting(config: UnionConfig, mountpoint: str) -> None:
    assert config.upper is not None
    assert config.work is not None
    table = {entry.mount_id: entry for entry in mount.mount_table()}
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
    for what, path in config.lower_directories():
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
    table = {entry.mount_id: entry for entry in mount.mount_table()}
    seen: dict[Place, str] = {}
    for kind, path in config.lower_directories():
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


def _features(work: int) -> list[str]:
    """The features of overlayfs that a mount has used there and that forbid another one.

    The kernel makes these directories with mode 0, also for an ordinary user in a user namespace.
    """
    try:
        incompat = os.open("work/incompat", _OPEN_DIR, dir_fd=work)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        try:
            incompat = open_as_owner(work, b"work/incompat", _OPEN_DIR)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:  # another user's; nothing else makes it than volatile
            return ["volatile"]
    try:
        return os.listdir(incompat)
    finally:
        os.close(incompat)


def check_work_content(upper: str, work: str, top: int) -> None:
    """Refuse a work directory (*top* is open on it) that is none, or of a mount that may have lost data."""
    foreign = sorted(set(os.listdir(top)) - {"work", "index"})
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise MountError(
            f"work {work} is not empty and not a work directory (it holds {shown}): give an empty"
            " directory; whatever"
            " is in work is deleted"
        )
    features = _features(top)
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
