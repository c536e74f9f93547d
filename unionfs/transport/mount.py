"""Getting a /dev/fuse descriptor that is mounted somewhere, and taking the mount away again.

With the privilege to mount, mount(2) is called with flags of our own choice; without it fusermount3, which is
setuid, mounts and hands the descriptor over. libfuse is then given the ready descriptor (its mountpoint is
"/dev/fd/N"), so unmounting is this module's work too. Nothing here reads or answers a request.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionfs.errors import MountError
from unionfs.linux import mount as linux
from unionfs.linux.process import try_in_child

FUSE_DEVICE = "/dev/fuse"
FSTYPE = "fuse.pyunionfs"

_ANSWER_TIME = 5.0

if TYPE_CHECKING:
    import subprocess

_FLAGS = {
    "ro": linux.MS_RDONLY,
    "nosuid": linux.MS_NOSUID,
    "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC,
    "noatime": linux.MS_NOATIME,
}


@dataclass(frozen=True, slots=True)
class FuseMountOptions:
    """What the kernel is told at mount(2). The defaults are overlayfs's: devices and setuid bits work.

    `allow_other` lets other users in. `default_permissions` is always given: the kernel checks modes and
    ACLs.
    `max_read` must then be given to libfuse too.
    """

    fsname: str = "pyunionfs"
    allow_other: bool = False
    read_only: bool = False
    nosuid: bool = False
    nodev: bool = False
    noexec: bool = False
    noatime: bool = False
    max_read: int | None = None

    def flag_names(self) -> list[str]:
        """The generic mount flags that are set, by their names for mount(8)."""
        names = []
        if self.read_only:
            names.append("ro")
        names += [name for name in ("nosuid", "nodev", "noexec", "noatime") if getattr(self, name)]
        return names

    def fuse_options(self) -> list[str]:
        """The options of the filesystem type, but for those that the mounting program finds out."""
        names = ["default_permissions"]
        if self.allow_other:
            names.append("allow_other")
        if self.max_read is not None:
            names.append(f"max_read={self.max_read}")
        return names


def check_mountpoint(mountpoint: str) -> None:
    """Refuse a mountpoint that is missing, not a directory, or a mount that does not answer."""
    answer: int | None
    # statvfs, because the answer to a stat may still be cached when the daemon is dead.
    if any(entry.fstype.startswith("fuse") for entry in linux.mount_table()):
        # Its daemon may be stuck, and then so would we be.
        answer = try_in_child(lambda: os.statvfs(mountpoint), _ANSWER_TIME)
    else:
        answer = _errno_of_statvfs(mountpoint)
    if answer is None or answer == errno.ENOTCONN:
        what = "that does not answer" if answer is None else "whose daemon has died"
        entry = linux.mount_at(mountpoint)
        program = "umount" if entry is not None and entry.fstype != FSTYPE else "pyunionfs umount"
        lazy = "--lazy " if answer is None else ""
        raise MountError(
            f"cannot mount on {mountpoint}: a FUSE mount {what} lies there;"
            f" `{program} {lazy}{shlex.quote(mountpoint)}` mends it"
        )
    if answer == errno.ENOENT:
        raise MountError(f"the mountpoint {mountpoint} does not exist: create it with `mkdir`")
    if answer:
        raise MountError(f"cannot mount on {mountpoint}: {os.strerror(answer)}")
    if not stat.S_ISDIR(os.stat(mountpoint).st_mode):
        raise MountError(f"the mountpoint {mountpoint} is not a directory: a union is mounted on one")


def _errno_of_statvfs(path: str) -> int:
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def open_fuse(mountpoint: str, options: FuseMountOptions) -> int:
    """Mount at `mountpoint` and return the descriptor that requests are read from; its owner closes it.

    From here on whoever touches the mountpoint waits until the descriptor is served.
    """
    try:
        fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except (PermissionError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError):
            raise _no_device(mountpoint) from error
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise _no_device(mountpoint) from error
        raise MountError(f"cannot mount {mountpoint}: {FUSE_DEVICE}: {error.strerror}") from error
    else:
        try:
            _mount_directly(fd, mountpoint, options)
            return fd
        except PermissionError:
            os.close(fd)
        except OSError as error:
            os.close(fd)
            raise MountError(f"cannot mount {mountpoint}: mount(2) says: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
    return _mount_by_fusermount(mountpoint, options)


def _no_device(mountpoint: str) -> MountError:
    return MountError(
        f"cannot mount {mountpoint}: this system has no {FUSE_DEVICE}; load the kernel's module with"
        " `modprobe fuse`, or give the container the device (docker: --device /dev/fuse --cap-add SYS_ADMIN)"
    )


def _mount_directly(fd: int, mountpoint: str, options: FuseMountOptions) -> None:
    # MS_POSIXACL makes the kernel leave creation modes unmasked and send the umask beside them, as default
    # ACLs need: where a directory has one, the umask must not count.
    flags = linux.MS_POSIXACL
    for name in options.flag_names():
        flags |= _FLAGS[name]
    root_mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
    data = [f"fd={fd}", f"rootmode={root_mode:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    linux.mount(options.fsname, mountpoint, FSTYPE, flags, ",".join(data + options.fuse_options()))


def _mount_by_fusermount(mountpoint: str, options: FuseMountOptions) -> int:
    import socket
    import subprocess  # slow to load, and root's mounts do without

    program = _fusermount(f"cannot mount {mountpoint}")
    subtype = FSTYPE.partition(".")[2]
    words = [*options.flag_names(), *options.fuse_options(), f"subtype={subtype}"]
    words.append("fsname=" + options.fsname.replace("\\", "\\\\").replace(",", "\\,"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(words), "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        theirs.close()
        if done.returncode != 0:
            raise MountError(f"cannot mount {mountpoint}: {_complaint(done)}{_hint(done.stderr)}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise MountError(f"cannot mount {mountpoint}: {program} succeeded but handed over no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _fusermount(what: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/usr/bin:/bin"
    program = shutil.which("fusermount3", path=path)
    if program is None:
        raise MountError(
            f"{what}: without root's privileges this needs fusermount3, which is not installed;"
            " install it (Debian, Ubuntu, Fedora: package fuse3) or run this as root"
        )
    return program


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """What fusermount3 wrote, on one line and without its own name."""
    lines = (line.rpartition("fusermount3: ")[2].strip() for line in os.fsdecode(done.stderr).split("\n"))
    text = "; ".join(line for line in lines if line)
    return f"fusermount3 says: {text}" if text else f"fusermount3 ended with status {done.returncode}"


def _hint(stderr: bytes) -> str:
    """What to do about fusermount3's commoner complaints."""
    # fusermount3 opens the device as the user who called it, so its mode counts.
    device = f"; users need {FUSE_DEVICE} (udev gives it mode 0666): root, run `chmod 666 {FUSE_DEVICE}`"
    for words, hint in (
        (f"open {FUSE_DEVICE}: Permission".encode(), device),
        (b"user_allow_other", "; leave allow_other out, or root adds the line `user_allow_other` there"),
        (b"write access", "; the mountpoint must be a directory of your own"),
        (
            b"Operation not permitted",
            "; fusermount3 must be setuid root, and cannot help in a user namespace",
        ),
        (b"Permission denied", "; look at the modes of the mountpoint and of the directories above it"),
    ):
        if words in stderr:
            return hint
    return ""


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount what is on top at `mountpoint`, also one whose daemon has died.

    `lazy` takes it out of the tree at once and lets open files go on. OSError EBUSY: files are in use there;
    EINVAL: nothing is mounted there; MountError: only fusermount3 could, and it did not.
    """
    try:
        linux.umount(mountpoint, linux.UMOUNT_NOFOLLOW | (linux.MNT_DETACH if lazy else 0))
        return
    except PermissionError:
        pass
    import subprocess

    program = _fusermount(f"cannot unmount {mountpoint}")
    done = subprocess.run(
        [program, "-u", *(["-z"] if lazy else []), "--", mountpoint],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode == 0:
        return
    if b"busy" in done.stderr:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mountpoint)
    raise MountError(f"cannot unmount {mountpoint}: {_complaint(done)}")
