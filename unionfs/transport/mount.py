"""Getting a /dev/fuse descriptor that is mounted somewhere.

With the privilege to mount, mount(2) is called with flags of our own choice; without it fusermount3, which is
setuid, mounts and hands the descriptor over. A transport is given the ready descriptor. Nothing here reads or
answers a request.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from dataclasses import dataclass

from unionfs.errors import MountError, explain
from unionfs.linux import mount as linux
from unionfs.linux.process import try_in_child
from unionfs.transport.auto_unmount import Guard
from unionfs.transport.detach import detach

FUSE_DEVICE = "/dev/fuse"
SUBTYPE = "pyunionfs"
FSTYPE = f"fuse.{SUBTYPE}"

_ANSWER_TIME = 5.0

_FLAGS = {
    "ro": linux.MS_RDONLY,
    "nosuid": linux.MS_NOSUID,
    "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC,
    "nosymfollow": linux.MS_NOSYMFOLLOW,
    "noatime": linux.MS_NOATIME,
    "strictatime": linux.MS_STRICTATIME,
    "nodiratime": linux.MS_NODIRATIME,
    "lazytime": linux.MS_LAZYTIME,
    "sync": linux.MS_SYNCHRONOUS,
    "dirsync": linux.MS_DIRSYNC,
}


@dataclass(frozen=True, slots=True)
class FuseMountOptions:
    """What the kernel is told at mount(2). The defaults are overlayfs's: devices and setuid bits work.

    `allow_other` lets other users in. `default_permissions` is always given: the kernel checks modes and
    ACLs (not with `acl` False). `access_times` is "noatime", "strictatime", or
    empty for what the kernel does by default. `context` and so on are SELinux's.
    """

    fsname: str = "pyunionfs"
    subtype: str = SUBTYPE
    allow_other: bool = False
    auto_unmount: bool = False
    read_only: bool = False
    nosuid: bool = False
    nodev: bool = False
    noexec: bool = False
    nosymfollow: bool = False
    access_times: str = ""
    nodiratime: bool = False
    lazytime: bool = False
    sync: bool = False
    dirsync: bool = False
    max_read: int | None = None
    acl: bool = True
    context: str | None = None
    fscontext: str | None = None
    defcontext: str | None = None
    rootcontext: str | None = None

    def flag_names(self) -> list[str]:
        """The generic mount flags that are set, by their names for mount(8)."""
        names = ["ro"] if self.read_only else []
        names += [name for name in ("nosuid", "nodev", "noexec", "nosymfollow") if getattr(self, name)]
        names += [self.access_times] if self.access_times else []
        names += [name for name in ("nodiratime", "lazytime", "sync", "dirsync") if getattr(self, name)]
        return names

    def contexts(self) -> list[tuple[str, str]]:
        """The SELinux contexts that are given, by name."""
        names = ("context", "fscontext", "defcontext", "rootcontext")
        return [(name, value) for name in names if (value := getattr(self, name)) is not None]

    def fuse_options(self) -> list[str]:
        """The options of the filesystem type, but for those that the mounting program finds out."""
        names = ["default_permissions"]
        if self.allow_other:
            names.append("allow_other")
        if self.max_read is not None:
            names.append(f"max_read={self.max_read}")
        return names


@dataclass(frozen=True, slots=True)
class FuseMount:
    """A mount that was made: the descriptor to read requests from, and which mount it is."""

    fd: int
    device: tuple[int, int] | None
    guard: Guard | None
    """Takes the mount away when this process dies; to be released when it has ended well."""
    entry: linux.MountPoint | None = None
    """What the table of mounts said of it when it was made."""

    def detach(self) -> None:
        """Take it out of the tree wherever it still is."""
        # Once the kernel has ended the session because it is unmounted, its number may be another mount's.
        detach(self.device, only_dead=self._has_ended())

    def _has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))


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
        import shlex

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
        raise MountError(f"cannot mount on {explain(OSError(answer, os.strerror(answer), mountpoint))}")
    if not stat.S_ISDIR(os.stat(mountpoint).st_mode):
        raise MountError(f"the mountpoint {mountpoint} is not a directory: a union is mounted on one")


def _errno_of_statvfs(path: str) -> int:
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def open_fuse(mountpoint: str, options: FuseMountOptions) -> FuseMount:
    """Mount at `mountpoint`; the descriptor is the caller's to close.

    From here on whoever touches the mountpoint waits until the descriptor is served. Must be called before
    this process has threads, because `auto_unmount` may fork.
    """
    try:
        fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except (PermissionError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError):
            raise _no_device(mountpoint) from error
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise _no_device(mountpoint) from error
        raise MountError(f"cannot mount {mountpoint}: {explain(error)}") from error
    else:
        try:
            _mount_directly(fd, mountpoint, options)
        except PermissionError:
            os.close(fd)
        except OSError as error:
            os.close(fd)
            raise MountError(
                f"cannot mount {mountpoint}: mount(2) says: {error.strerror}{_hint(error, options)}"
            ) from error
        except BaseException:
            os.close(fd)
            raise
        else:
            return _mounted(fd, mountpoint, options)
    from unionfs.transport import fusermount

    _refuse_contexts(mountpoint, options)
    return _mounted(fusermount.mount(mountpoint, _words(options)), mountpoint, options)


def _mounted(fd: int, mountpoint: str, options: FuseMountOptions) -> FuseMount:
    entry = linux.mount_at(mountpoint)
    if entry is None:  # somebody was quick to take it away
        return FuseMount(fd, None, None)
    return FuseMount(fd, entry.device, Guard(entry.device) if options.auto_unmount else None, entry)


def _no_device(mountpoint: str) -> MountError:
    return MountError(
        f"cannot mount {mountpoint}: this system has no {FUSE_DEVICE}; load the kernel's module with"
        " `modprobe fuse`, or give the container the device (docker: --device /dev/fuse --cap-add SYS_ADMIN)"
    )


def _mount_directly(fd: int, mountpoint: str, options: FuseMountOptions) -> None:
    # MS_POSIXACL makes the kernel leave creation modes unmasked and send the umask beside them, as default
    # ACLs need: where a directory has one, the umask must not count.
    flags = (linux.MS_POSIXACL if options.acl else 0) | _mount_flags(options)
    root_mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
    data = [f"fd={fd}", f"rootmode={root_mode:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    data += options.fuse_options()
    # Quoted, because categories are separated by commas; SELinux takes the quotes off.
    data += [f'{name}="{value}"' for name, value in options.contexts()]
    linux.mount(options.fsname, mountpoint, f"fuse.{options.subtype}", flags, ",".join(data))


def _mount_flags(options: FuseMountOptions) -> int:
    flags = 0
    for name in options.flag_names():
        flags |= _FLAGS[name]
    return flags


def change_flags(mountpoint: str, options: FuseMountOptions) -> None:
    """Give what is mounted there these flags instead of its own. OSError as mount(2) has it."""
    flags = linux.MS_REMOUNT | _mount_flags(options)
    if not options.access_times:
        # Where none of these flags is given, path_mount() keeps those that the mount has.
        flags |= linux.MS_RELATIME
    # fuse.ko looks at no option then, and the type is that of what is there.
    linux.mount(options.fsname, mountpoint, "none", flags, "")


def _hint(error: OSError, options: FuseMountOptions) -> str:
    names = [name for name, _ in options.contexts()]
    if error.errno != errno.EINVAL or not names:
        return ""
    return f"; {' and '.join(names)} need SELinux and a context that it knows: leave out what is not so"


def _refuse_contexts(mountpoint: str, options: FuseMountOptions) -> None:
    names = [name for name, _ in options.contexts()]
    if names:
        raise MountError(
            f"cannot mount {mountpoint}: {' and '.join(names)} can be given by root only: leave that out"
        )


def _words(options: FuseMountOptions) -> list[str]:
    """Everything that fusermount3 is told by -o."""
    names = [("subtype", options.subtype), ("fsname", options.fsname)]
    texts = [f"{name}=" + value.replace("\\", "\\\\").replace(",", "\\,") for name, value in names]
    return [*options.flag_names(), *options.fuse_options(), *texts]
