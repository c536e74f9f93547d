"""Whether upper's filesystem can hold what the union will write there, found out by trying in work.

For a process that has locked upper and work (`lock.py`). A refusal is a `MountError` with one line for
people, and whatever was made for the trial is gone again.
"""

from __future__ import annotations

import contextlib
import os
import stat

from unionfs.errors import MountError
from unionfs.linux import syscalls
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.format import WHITEOUT_PREFIX
from unionfs.overlay.work import remove_tree

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def try_marks(config: UnionConfig, top: int) -> str:
    """Make one mark of each kind in work (a descriptor), as the union will, and take all of it away again.

    Returns how deletions will be recorded: what `whiteouts` says, and of "auto" the first that works.
    """
    upper = config.upper
    assert upper is not None
    with contextlib.ExitStack() as stack:
        times = os.fstat(top)
        stack.callback(os.utime, top, ns=(times.st_atime_ns, times.st_mtime_ns))
        try:
            os.mkdir("work", 0o700, dir_fd=top)
            stack.callback(os.rmdir, "work", dir_fd=top)
        except FileExistsError:
            _open_up(top, "work")
        inside = os.open("work", _OPEN_DIR, dir_fd=top)
        stack.callback(os.close, inside)
        # A crash here leaves what the next mount removes.
        name = b"#probe%x" % os.getpid()
        os.mkdir(name, 0o700, dir_fd=inside)
        stack.callback(remove_tree, inside, name)
        fd = os.open(name, _OPEN_DIR, dir_fd=inside)
        stack.callback(os.close, fd)
        _try_xattr(fd, upper, config.userxattr)
        if config.whiteouts == "auto":
            try:
                _try_whiteout(fd, upper)
                return "overlay"
            except MountError:
                for entry in os.listdir(fd):
                    os.unlink(entry, dir_fd=fd)
        if config.whiteouts != "overlay":
            _try_mark_file(fd, upper)
            return "aufs"
        _try_whiteout(fd, upper)
        return "overlay"


def _open_up(top: int, name: str) -> None:
    """Kernel overlayfs makes its directories in work with mode 0, which keeps an ordinary user out."""
    st = os.stat(name, dir_fd=top, follow_symlinks=False)
    if st.st_uid == os.geteuid() and stat.S_ISDIR(st.st_mode) and st.st_mode & 0o700 != 0o700:
        syscalls.chmod_no_symlink(os.fsencode(name), 0o700, top)


def _try_xattr(fd: int, upper: str, userxattr: bool) -> None:
    prefix = "user" if userxattr else "trusted"
    try:
        os.setxattr(fd, f"{prefix}.overlay.opaque", b"y")
        works = os.getxattr(fd, f"{prefix}.overlay.opaque") == b"y"
        reason = "they read back wrong"
    except OSError as error:
        works, reason = False, error.strerror or str(error)
    if not works:
        raise MountError(
            f"the filesystem of upper {upper} cannot hold {prefix}.* extended attributes ({reason}), where"
            " a union keeps"
            " its marks: put upper and work on ext4, xfs, btrfs or tmpfs"
        )


def _try_whiteout(fd: int, upper: str) -> None:
    advice = "put them on ext4, xfs, btrfs or tmpfs, not on overlayfs (a container's own root) or a network"
    try:
        os.mknod("whiteout", stat.S_IFCHR, os.makedev(0, 0), dir_fd=fd)
    except OSError as error:
        raise MountError(
            f"the filesystem of upper {upper} cannot hold whiteouts (mknod of a character device 0/0:"
            f" {error.strerror}): {advice}, or mount with -o whiteouts=aufs, which records deletions by .wh."
            " files"
        ) from error
    try:
        os.mknod("file", stat.S_IFREG | 0o600, dir_fd=fd)
        syscalls.renameat2(fd, b"file", fd, b"moved", syscalls.RENAME_WHITEOUT)
        syscalls.renameat2(fd, b"moved", fd, b"whiteout", syscalls.RENAME_EXCHANGE)
    except OSError as error:
        raise MountError(
            f"the filesystem of upper {upper} cannot rename with RENAME_WHITEOUT and RENAME_EXCHANGE"
            f" ({error.strerror}), by which changes stay atomic: {advice}"
        ) from error


def _try_mark_file(fd: int, upper: str) -> None:
    advice = "put upper and work on ext4, xfs, btrfs, tmpfs or overlayfs"
    try:
        os.mknod(WHITEOUT_PREFIX + b"file", stat.S_IFREG | 0o600, dir_fd=fd)
    except OSError as error:
        raise MountError(
            f"the filesystem of upper {upper} cannot hold .wh. files ({error.strerror}), which a union hides:"
            f" {advice}"
        ) from error
    try:
        os.mknod("file", stat.S_IFREG | 0o600, dir_fd=fd)
        syscalls.renameat2(fd, b"file", fd, WHITEOUT_PREFIX + b"file", syscalls.RENAME_EXCHANGE)
    except OSError as error:
        raise MountError(
            f"the filesystem of upper {upper} cannot rename with RENAME_EXCHANGE ({error.strerror}), by which"
            f" changes stay atomic: {advice}"
        ) from error
