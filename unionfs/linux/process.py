"""Processes: privileges, limits, memory, descriptors, pidfds.

Plain functions over /proc and system calls. No rule about mounts is here, and nothing prints.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
from collections.abc import Callable, Collection

CAP_SYS_ADMIN = 21

NAME = "pyunionfs"
"""The name of a daemon's process."""

# The inode number of the first user namespace is a constant of the kernel (PROC_USER_INIT_INO).
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD

# More descriptors than this cost kernel memory without a benefit.
_MOST_DESCRIPTORS = 1048576


def effective_capabilities() -> int:
    """The effective capability set of this process as a bit mask."""
    return int(_status("CapEff") or "0", 16)


def umask() -> int:
    """The file mode creation mask; all bits where the kernel does not tell it (before Linux 4.7).

    umask(2) tells it only by changing it, for all threads.
    """
    return int(_status("Umask") or "777", 8)


def _status(field: str) -> str | None:
    """The first word of a field of /proc/self/status; None where there is no such field."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(f"{field}:"):
                return line.split()[1]
    return None


def has_capability(capability: int) -> bool:
    return bool(effective_capabilities() >> capability & 1)


def in_initial_user_namespace() -> bool:
    try:
        return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE
    except FileNotFoundError:  # a kernel without user namespaces has only the initial one
        return True


def may_use_trusted_xattrs() -> bool:
    """Whether `trusted.*` can be used: that needs CAP_SYS_ADMIN in the initial user namespace."""
    return has_capability(CAP_SYS_ADMIN) and in_initial_user_namespace()


def may_use_backing_files() -> bool:
    """Whether fuse.ko accepts backing files of this process: CAP_SYS_ADMIN in the initial user namespace."""
    return may_use_trusted_xattrs()


def raise_file_size_limit() -> None:
    """Raise RLIMIT_FSIZE as far as this process may: the kernel has already checked the caller's."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (PermissionError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def raise_open_file_limit() -> int:
    """Raise RLIMIT_NOFILE as far as this process may, and return the limit that holds now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard
    if os.geteuid() == 0:
        with open("/proc/sys/fs/nr_open", encoding="ascii") as nr_open:
            wanted = min(int(nr_open.read()), _MOST_DESCRIPTORS)
    if hard != resource.RLIM_INFINITY and wanted < hard:
        wanted = hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (PermissionError, ValueError):  # root without CAP_SYS_RESOURCE: its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        wanted = hard
    return wanted


def resident_memory() -> int:
    """This process's resident memory in bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def set_process_name(name: str) -> None:
    """What `ps -C` and /proc/PID/comm show; the kernel cuts it at 15 bytes."""
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(name)


def drop_descriptors(keep: Collection[int]) -> None:
    """Replace every descriptor that is not in `keep` by one of /dev/null.

    They are not just closed: an object in this process that still has the number may close it, and that must
    not close another file.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd != null and fd not in keep and _is_open(fd):
            os.dup2(null, fd, inheritable=False)
    os.close(null)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        if error.errno == errno.EBADF:  # the one by which the list was read
            return False
    return True


def open_pidfd(pid: int) -> int | None:
    """A pidfd of the process, or None when it is gone. A pid may be reused, a pidfd is not."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def wait_for_exit(pidfd: int, timeout: float | None) -> bool:
    """Wait until the process has exited; False after *timeout* seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def run_in_child(action: Callable[[], object], timeout: float) -> int | None:
    """Run `action` in a forked child: 0, the errno of its OSError, or None when it does not return.

    For system calls that can hang for ever (a path on a filesystem whose daemon is stuck): nothing interrupts
    them, so a thread would keep this process from exiting.
    """
    pid = os.fork()
    if pid == 0:
        status = errno.EIO
        try:
            # A reader of this process's output must not wait for the child's end too.
            drop_descriptors(())
            action()
            status = 0
        except OSError as error:
            status = error.errno or errno.EIO
        finally:
            os._exit(status)
    pidfd = os.pidfd_open(pid)
    try:
        if not wait_for_exit(pidfd, timeout):
            os.kill(pid, signal.SIGKILL)
            # SIGKILL may not end it: a daemon that has read the request must reply first. init reaps it.
            os.waitpid(pid, os.WNOHANG)
            return None
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(status)


def processes_using(path: str, most: int = 5) -> list[tuple[int, str]]:
    """Processes (pid, name) with a working directory or open files below a path, where /proc is readable."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
            if any(_leads_below(link, path) for link in links):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                    found.append((int(pid), comm.read().rstrip("\n")))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue  # another user's process, or one that ended meanwhile
        if len(found) == most:
            break
    return found


def cwd_is_below(path: str) -> bool:
    """Whether this process's working directory is `path` or below it. Accesses no filesystem but /proc."""
    return _leads_below("/proc/self/cwd", path)


def _leads_below(link: str, path: str) -> bool:
    try:
        target = os.readlink(link)
    except FileNotFoundError:  # a descriptor that was closed meanwhile
        return False
    return target == path or target.startswith(path.rstrip("/") + "/")
