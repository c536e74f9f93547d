"""Whether a process may use a mount, from /proc: for a filesystem that gets no OPEN requests.

Accesses no filesystem but /proc, so that a daemon may call it for its own mount. Processes whose /proc files
are not readable are ignored.
"""

from __future__ import annotations

import errno
import os

from unionfs.linux.mount import parse_mount


def may_be_in_use(mount_id: int, device: tuple[int, int], daemons: str) -> bool:
    """Whether some process can reach this mount of our namespace, or has a file of it open or mapped.

    Processes named *daemons* serve other mounts, and count only with an open or mapped file.
    """
    if mount_id not in _mounts_of("self", device):
        # Detached; the kernel ends it as soon as nothing is open, and has not.
        return True
    me = str(os.getpid())
    namespaces = {_namespace("self"): False}
    needle = b" %02x:%02x " % device
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid == me:
            continue
        try:
            if _name(pid) != daemons and _sees(pid, device, namespaces):
                return True
            if _has_open(pid, mount_id) or _maps(pid, needle):
                return True
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue  # another user's process, or one that has ended meanwhile
    return False


def _name(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        return comm.read().rstrip("\n")


def _namespace(pid: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")


def _sees(pid: str, device: tuple[int, int], namespaces: dict[str, bool]) -> bool:
    """Whether the mount is in the process's namespace: ours has it; *namespaces* caches the others."""
    namespace = _namespace(pid)
    if namespace == next(iter(namespaces)):
        return True
    if namespace not in namespaces:
        namespaces[namespace] = bool(_mounts_of(pid, device))
    return namespaces[namespace]


def _mounts_of(pid: str, device: tuple[int, int]) -> set[int]:
    needle = b" %d:%d " % device
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as table:
            entries = [parse_mount(os.fsdecode(line)) for line in table if needle in line]
    except OSError as error:
        if error.errno == errno.EINVAL:  # it is ending and has left its namespaces: mounts_open_common()
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
        raise
    return {entry.mount_id for entry in entries if entry.device == device}


def _has_open(pid: str, mount_id: int) -> bool:
    needle = b"mnt_id:\t%d\n" % mount_id
    directory = f"/proc/{pid}/fdinfo"
    for fd in os.listdir(directory):
        try:
            with open(f"{directory}/{fd}", "rb") as info:
                if needle in info.read():
                    return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False


def _maps(pid: str, needle: bytes) -> bool:
    with open(f"/proc/{pid}/maps", "rb") as maps:
        return any(needle in line for line in maps)
