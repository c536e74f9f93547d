"""On whose behalf an operation runs, and making new objects as that caller.

The kernel has checked permissions already (`default_permissions`); this is about ownership only.
"""

from __future__ import annotations

import errno
import functools
import os

from unionfs.linux import syscalls


@functools.cache
def _own_user_namespace() -> int:
    return os.stat("/proc/self/ns/user").st_ino


Contexts = tuple[tuple[bytes, bytes], ...]


class Caller:
    """The credentials of the process that asked, and what it wants of an object that it makes.

    `group` is a supplementary group that the request names (fuse.ko names the directory's, if it is one);
    `contexts` are the security attributes (name, value) with which a new object must appear.
    """

    __slots__ = ("contexts", "gid", "group", "pid", "uid", "umask")

    def __init__(
        self,
        uid: int,
        gid: int,
        pid: int,
        umask: int,
        group: int | None = None,
        contexts: Contexts = (),
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.umask = umask
        self.group = group
        self.contexts = contexts

    def has_capability(self, number: int, over: os.stat_result | None = None) -> bool:
        """Whether the process has an effective capability (its number in capabilities(7)).

        One that it has in another user namespace than ours counts *over* an object whose owner and group that
        namespace knows, as capable_wrt_inode_uidgid() has it, and else not at all. Where /proc does not tell
        (the process has ended), root has them all and others none.
        """
        try:
            elsewhere = os.stat(f"/proc/{self.pid}/ns/user").st_ino != _own_user_namespace()
            if elsewhere and (
                over is None or not (self._knows("uid", over.st_uid) and self._knows("gid", over.st_gid))
            ):
                return False
        except (FileNotFoundError, ProcessLookupError):
            return self.uid == 0
        except PermissionError:  # another user's process, and we are an ordinary user
            return False
        for line in self._status():
            if line.startswith(b"CapEff:"):
                return bool(int(line[7:], 16) >> number & 1)
        return self.uid == 0

    def in_group(self, gid: int) -> bool:
        """Whether *gid* is the process's group or one of its supplementary groups."""
        if gid in (self.gid, self.group):
            return True
        for line in self._status():
            if line.startswith(b"Groups:"):
                return gid in map(int, line[7:].split())
        return False

    def _knows(self, kind: str, number: int) -> bool:
        """Whether the process's user namespace has an id of its own for this one of ours."""
        with open(f"/proc/{self.pid}/{kind}_map", "rb") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
        return any(first <= number < first + length for _, first, length in ranges)

    def _status(self) -> list[bytes]:
        try:
            with open(f"/proc/{self.pid}/status", "rb") as status:
                return status.readlines()
        except (FileNotFoundError, ProcessLookupError):
            return []


CAP_DAC_OVERRIDE = 1
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SETUID = 7
CAP_LINUX_IMMUTABLE = 9
CAP_SYS_ADMIN = 21


class Identity:
    """The daemon's own credentials, and acting with a caller's for the length of one creation.

    With `setfsuid` and the caller's umask in force, the upper filesystem itself gives the new object its
    owner, its group (setgid directories) and its inherited ACL, in one atomic step.
    """

    __slots__ = ("gid", "privileged", "uid")

    def __init__(self, *, privileged: bool) -> None:
        self.uid = os.geteuid()
        self.gid = os.getegid()
        self.privileged = privileged

    def acting_as(self, caller: Caller) -> Acting:
        """A context in which objects are made as *caller*.

        Raises EPERM when we may not act for it: an unprivileged daemon makes objects for its own user only,
        and with its own group (a process of that user that has changed its group by newgrp is refused).
        """
        if not self.privileged and (caller.uid != self.uid or caller.gid != self.gid):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return Acting(self, caller)


class Acting:
    """What `Identity.acting_as` returns."""

    __slots__ = ("_caller", "_change", "_own")

    def __init__(self, own: Identity, caller: Caller) -> None:
        self._own = own
        self._caller = caller
        self._change = own.privileged and (caller.uid != own.uid or caller.gid != own.gid)

    def __enter__(self) -> None:
        os.umask(self._caller.umask)
        if self._change:
            syscalls.set_fs_ids(self._caller.uid, self._caller.gid)

    def __exit__(self, *exc: object) -> None:
        if self._change:
            syscalls.set_fs_ids(self._own.uid, self._own.gid)
        os.umask(0)
