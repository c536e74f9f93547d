"""Opens /dev/fuse and mounts it.

With the privilege to mount, mount(2) is called with flags of our own choice; without it fusermount3, which is
setuid, mounts and passes the descriptor. A transport gets the mounted descriptor. Nothing here reads a
request or replies.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from dataclasses import dataclass, replace

from unionfs.errors import MountError, explain
from unionfs.linux import mount, syscalls
from unionfs.linux.process import run_in_child
from unionfs.transport.auto_unmount import Guard
from unionfs.transport.detach import detach

FUSE_DEVICE = "/dev/fuse"
SUBTYPE = "pyunionfs"
FSTYPE = f"fuse.{SUBTYPE}"

_STATVFS_TIMEOUT = 5.0
_MOST_MOVES = 100

_FLAGS = {
    "ro": mount.MS_RDONLY,
    "nosuid": mount.MS_NOSUID,
    "nodev": mount.MS_NODEV,
    "noexec": mount.MS_NOEXEC,
    "nosymfollow": mount.MS_NOSYMFOLLOW,
    "noatime": mount.MS_NOATIME,
    "strictatime": mount.MS_STRICTATIME,
    "nodiratime": mount.MS_NODIRATIME,
    "lazytime": mount.MS_LAZYTIME,
    "sync": mount.MS_SYNCHRONOUS,
    "dirsync": mount.MS_DIRSYNC,
}
"""By the name of the option, which is also that of the field unless `flag_names` has another."""


@dataclass(frozen=True, slots=True)
class FuseMountOptions:
    """Flags and options for mount(2). The defaults are overlayfs's: devices and setuid bits work.

    `allow_other` permits other users. `default_permissions` is always set: the kernel checks modes and ACLs
    (these not with `acl` False). `access_times` is "noatime", "strictatime", or empty for the kernel's
    default. `context` and so on are SELinux's.
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
        """The generic mount flags that are set, by their names in mount(8)."""
        access_times = self.access_times
        fields = {"ro": "read_only"}
        return [
            name for name in _FLAGS if name == access_times or getattr(self, fields.get(name, name), False)
        ]

    def contexts(self) -> list[tuple[str, str]]:
        """The SELinux contexts that are given, by name."""
        names = ("context", "fscontext", "defcontext", "rootcontext")
        return [(name, value) for name in names if (value := getattr(self, name)) is not None]

    def fuse_options(self) -> list[str]:
        """The options of the filesystem type, except those that the mounting program adds."""
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
    """Detaches the mount when this process dies; to be released after a regular end."""
    entry: mount.MountPoint | None = None
    """Its line of the mount table when it was made."""
    by_fusermount: bool = False
    """fusermount3 has mounted it, and has to unmount it."""

    def detach(self) -> None:
        """Detach it wherever it still is."""
        # Once the kernel has ended the session because it is unmounted, its device number may be another's.
        detach(self.device, only_dead=self._has_ended())

    def _has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))


def check_mountpoint(mountpoint: str) -> None:
    """Refuse a mountpoint that is missing, not a directory, or a mount whose daemon does not reply."""
    code: int | None
    # statvfs, because attributes may still be cached when the daemon is dead.
    if any(entry.fstype.startswith("fuse") for entry in mount.mount_table()):
        # Its daemon may be stuck, and then statvfs(2) would not return.
        code = run_in_child(lambda: os.statvfs(mountpoint), _STATVFS_TIMEOUT)
    else:
        code = _errno_of_statvfs(mountpoint)
    if code is None or code == errno.ENOTCONN:
        import shlex

        what = "does not reply" if code is None else "has died"
        entry = mount.mount_at(mountpoint)
        program = "umount" if entry is not None and entry.fstype != FSTYPE else "pyunionfs umount"
        lazy = "--lazy " if code is None else ""
        raise MountError(
            f"cannot mount on {mountpoint}: the daemon of the FUSE mount there {what};"
            f" unmount that with `{program} {lazy}{shlex.quote(mountpoint)}`"
        )
    if code == errno.ENOENT:
        raise MountError(f"the mountpoint {mountpoint} does not exist: create it with `mkdir`")
    if code:
        raise MountError(f"cannot mount on {explain(OSError(code, os.strerror(code), mountpoint))}")
    if not stat.S_ISDIR(os.stat(mountpoint).st_mode):
        raise MountError(f"the mountpoint {mountpoint} is not a directory: a union is mounted on one")


def _errno_of_statvfs(path: str) -> int:
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def open_fuse(mountpoint: str, options: FuseMountOptions) -> FuseMount:
    """Mount at `mountpoint`; the caller closes the descriptor.

    From here on a process that accesses the mountpoint waits until the descriptor is served. Must be called
    before this process has threads, because `auto_unmount` forks.
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
            return _mount_by_descriptor(fd, mountpoint, options)
        except PermissionError:
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
    from unionfs.transport import fusermount

    _refuse_contexts(mountpoint, options)
    fd = fusermount.mount(mountpoint, _fusermount_options(options))
    return replace(_made(fd, mount.mount_at(mountpoint), options), by_fusermount=True)


def _mount_by_descriptor(fd: int, mountpoint: str, options: FuseMountOptions) -> FuseMount:
    """Mount on the very directory that the path leads to without a symlink, wherever that is by now.

    Its path was resolved before: a symlink that another user has put into it since would have another
    directory covered. PermissionError: this process may not mount.
    """
    try:
        place = syscalls.open_no_symlinks(mountpoint, os.O_PATH | os.O_DIRECTORY)
    except PermissionError:
        raise
    except OSError as error:
        raise MountError(f"cannot mount {mountpoint}: {_replaced(error)}") from error
    try:
        _mount_directly(fd, f"/proc/self/fd/{place}", options)
        entry = _mounted_on(place, options)
    except PermissionError:
        raise
    except OSError as error:
        raise MountError(
            f"cannot mount {mountpoint}: mount(2) says: {error.strerror}{_hint(error, options)}"
        ) from error
    finally:
        os.close(place)
    if entry is not None and entry.path != mountpoint:
        detach(entry.device)
        raise MountError(
            f"cannot mount {mountpoint}: it was moved to {entry.path} meanwhile: look who may change the"
            " directories above it, and mount again"
        )
    return _made(fd, entry, options)


def _mounted_on(place: int, options: FuseMountOptions) -> mount.MountPoint | None:
    """The mount that was just made on a directory, wherever that is by now; None: it is already unmounted."""
    for _ in range(_MOST_MOVES):
        path = os.readlink(f"/proc/self/fd/{place}")
        entry = mount.mount_at(path)
        if entry is not None and entry.fstype == f"fuse.{options.subtype}":
            return entry
        if path == os.readlink(f"/proc/self/fd/{place}"):
            return None
    raise OSError(errno.EBUSY, "the mountpoint is moved again and again, and the mount is still there")


def _replaced(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return (
            "something in its path was replaced by a symlink or a file meanwhile: look who may change the"
            " directories above it, and mount again"
        )
    return error.strerror or str(error)


def _made(fd: int, entry: mount.MountPoint | None, options: FuseMountOptions) -> FuseMount:
    if entry is None:  # it is already unmounted
        return FuseMount(fd, None, None)
    return FuseMount(fd, entry.device, Guard(entry.device) if options.auto_unmount else None, entry)


def _no_device(mountpoint: str) -> MountError:
    return MountError(
        f"cannot mount {mountpoint}: this system has no {FUSE_DEVICE}; load the kernel's module with"
        " `modprobe fuse`, or give the container the device (docker: --device /dev/fuse --cap-add SYS_ADMIN)"
    )


def _mount_directly(fd: int, mountpoint: str, options: FuseMountOptions) -> None:
    # MS_POSIXACL makes the kernel send creation modes unmasked, with the umask beside them, as default ACLs
    # need: in a directory that has one, the umask must not apply.
    flags = (mount.MS_POSIXACL if options.acl else 0) | _mount_flags(options)
    root_mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
    data = [f"fd={fd}", f"rootmode={root_mode:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    data += options.fuse_options()
    # Quoted, because categories are separated by commas; SELinux takes the quotes off.
    data += [f'{name}="{value}"' for name, value in options.contexts()]
    mount.mount(options.fsname, mountpoint, f"fuse.{options.subtype}", flags, ",".join(data))


def _mount_flags(options: FuseMountOptions) -> int:
    flags = 0
    for name in options.flag_names():
        flags |= _FLAGS[name]
    return flags


def change_flags(mountpoint: str, options: FuseMountOptions) -> None:
    """Remount with these flags. OSError as mount(2) returns it."""
    flags = mount.MS_REMOUNT | _mount_flags(options)
    if not options.access_times:
        # With none of these flags, path_mount() keeps those of the mount.
        flags |= mount.MS_RELATIME
    # fuse.ko ignores options of a remount, and the type is that of the mount.
    mount.mount(options.fsname, mountpoint, "none", flags, "")


def _hint(error: OSError, options: FuseMountOptions) -> str:
    names = [name for name, _ in options.contexts()]
    if error.errno != errno.EINVAL or not names:
        return ""
    return f"; {' and '.join(names)} need SELinux and a context that it knows: leave out the others"


def _refuse_contexts(mountpoint: str, options: FuseMountOptions) -> None:
    names = [name for name, _ in options.contexts()]
    if names:
        raise MountError(
            f"cannot mount {mountpoint}: {' and '.join(names)} can be given by root only: leave that out"
        )


def _fusermount_options(options: FuseMountOptions) -> list[str]:
    """What fusermount3 gets by -o."""
    names = [("subtype", options.subtype), ("fsname", options.fsname)]
    texts = [f"{name}=" + value.replace("\\", "\\\\").replace(",", "\\,") for name, value in names]
    return [*options.flag_names(), *options.fuse_options(), *texts]
