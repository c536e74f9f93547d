"""A user namespace in which an ordinary user is root: with subordinate ids, or with the one id alone.

The ranges of /etc/subuid and /etc/subgid are mapped by newuidmap(1) and newgidmap(1), which are set-uid
programs; without either, the kernel lets a user map the own id. Nothing here knows images or containers.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.linux import namespaces
from unionfs.linux.process import in_initial_user_namespace

Range = tuple[int, int, int]
"""As a line of /proc/PID/uid_map: the first id inside, the first one outside, how many."""

_SEARCH = os.pathsep.join(("/usr/bin", "/usr/local/bin", "/usr/sbin", "/bin", "/sbin"))


class IdMaps(NamedTuple):
    """What is mapped in the namespace. The user is root there, and the further ids follow from 1 on."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]

    @property
    def single(self) -> bool:
        """Whether root is the only id."""
        return len(self.uids) == 1


def id_maps() -> IdMaps:
    """The maps for a namespace of this user: with all ranges of the user's, where there are both kinds."""
    uid, gid = os.getuid(), os.getgid()
    uids, gids = _ranges("/etc/subuid", uid), _ranges("/etc/subgid", uid)
    if not uids or not gids or not all(map(_program, ("newuidmap", "newgidmap"))):
        uids, gids = [], []
    return IdMaps(_following(uid, uids), _following(gid, gids))


def own_maps() -> IdMaps | None:
    """The maps of the user namespace that this process is in; None: it is the first one."""
    if in_initial_user_namespace():
        return None
    return IdMaps(*(_read_map(f"/proc/self/{kind}_map") for kind in ("uid", "gid")))


def _read_map(path: str) -> tuple[Range, ...]:
    with open(path, encoding="ascii") as table:
        return tuple(
            (int(first), int(outside), int(count)) for first, outside, count in map(str.split, table)
        )


def enter(maps: IdMaps) -> None:
    """Move this process, which has no threads, into a new user namespace with these ids, as root there.

    OSError, with a message of its own: the kernel permits no user namespaces (EPERM, ENOSPC), or the programs
    refuse a range.
    """
    ready, go = os.pipe(), os.pipe()
    # A process that stays outside: newuidmap must not be in the namespace that it writes the map of.
    helper = None if maps.single else _start_helper(maps, ready, go)
    try:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        if helper is None:
            _map_own_ids(maps)
            return
        os.write(go[1], b".")
        os.close(ready[1])
        ready = (ready[0], -1)
        answer = os.read(ready[0], 65536)
        if answer != b".":
            said = os.fsdecode(answer) or "cannot map ids: the process that should do it was killed"
            raise PermissionError(errno.EPERM, said)
    finally:
        for fd in {*ready, *go} - {-1}:
            os.close(fd)
        if helper is not None:
            os.waitpid(helper, 0)


def _following(own: int, ranges: Sequence[tuple[int, int]]) -> tuple[Range, ...]:
    found = [(0, own, 1)]
    inside = 1
    for first, count in ranges:
        found.append((inside, first, count))
        inside += count
    return tuple(found)


def _ranges(path: str, uid: int) -> list[tuple[int, int]]:
    """First id and count of each range of a user, named by name or number (subuid(5))."""
    names = {str(uid)}
    try:
        names.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as table:
            for line in table:
                owner, _, rest = line.strip().partition(":")
                first, _, count = rest.partition(":")
                if owner in names and first.isdigit() and count.isdigit() and int(count):
                    found.append((int(first), int(count)))
    except FileNotFoundError:
        pass
    return found


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + _SEARCH)


def _start_helper(maps: IdMaps, ready: tuple[int, int], go: tuple[int, int]) -> int:
    target = os.getpid()
    helper = os.fork()
    if helper:
        return helper
    status = 1
    try:
        # Its own copy would keep the pipe open when the other process is killed.
        os.close(go[1])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if os.read(go[0], 1):
            os.write(ready[1], os.fsencode(_write_maps(target, maps)) or b".")
        status = 0
    finally:
        os._exit(status)


def _write_maps(pid: int, maps: IdMaps) -> str:
    """Map a process's ids; why not, or nothing."""
    # Side by side: each takes some milliseconds.
    running = []
    for name, ranges in (("newuidmap", maps.uids), ("newgidmap", maps.gids)):
        words = [_program(name) or name, str(pid), *(str(number) for each in ranges for number in each)]
        running.append(
            (
                name,
                subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                ),
            )
        )
    problems = []
    for name, process in running:
        _, said = process.communicate()
        if process.returncode:
            reason = os.fsdecode(said).strip() or f"it ended with {process.returncode}"
            problems.append(
                f"cannot map ids: {name}: {reason}; see the user's lines in /etc/subuid and /etc/subgid"
            )
    return "; ".join(problems)


def _map_own_ids(maps: IdMaps) -> None:
    # Without this an ordinary user may map no group (user_namespaces(7)).
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", _line(maps.uids[0])),
        ("gid_map", _line(maps.gids[0])),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _line(each: Range) -> str:
    return " ".join(map(str, each))
