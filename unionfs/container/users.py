"""The user that a process runs as, looked up in the container's own /etc/passwd and /etc/group.

These are parsed, never read through NSS, which would run the container's libraries. The files come from the
image: they may be anything. Called in the container's root.
"""

from __future__ import annotations

import os
import stat

_MOST_BYTES = 16 << 20
_LAST_ID = (1 << 32) - 2
"""-1 means "unchanged" to setuid(2) and its like."""


class User:
    """The ids of a process, and its home."""

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


class UnknownUserError(Exception):
    """There is no such user or group; the message is for people."""


def find(words: str) -> User:
    """The user that USER[:GROUP] means, by Docker's rules (moby/sys/user, GetExecUser).

    Each is a name or a number, and a number needs no entry. Without a group it is the user's own, with
    the groups that have the user as member beside it. Raises UnknownUserError.
    """
    user, colon, group = words.partition(":")
    uid, gid, home, name = 0, 0, "/", ""
    number = _number(user)
    for fields in _entries("/etc/passwd", 6):
        found = _number(fields[2])
        if found is None:
            continue
        if fields[0] == user if user and number is None else found == (number or 0):
            uid, gid, home, name = found, _number(fields[3]) or 0, fields[5] or "/", fields[0]
            break
    else:
        if user and number is None:
            raise UnknownUserError(f"unable to find user {user}: no matching entries in passwd file")
        uid = number or 0
    groups: list[int] = []
    if colon and group:
        gid = _group(group)
    elif name:
        groups = [
            found
            for fields in _entries("/etc/group", 4)
            if (found := _number(fields[2])) is not None and name in fields[3].split(",")
        ]
    # The group itself among the others: else leaving it would lift what is denied to it.
    return User(uid, gid, list(dict.fromkeys([gid, *groups])), home)


def _group(group: str) -> int:
    number = _number(group)
    if number is not None:
        return number
    for fields in _entries("/etc/group", 3):
        found = _number(fields[2])
        if fields[0] == group and found is not None:
            return found
    raise UnknownUserError(f"unable to find group {group}: no matching entries in group file")


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or int(text) > _LAST_ID:
        return None
    return int(text)


def _entries(path: str, least: int) -> list[list[str]]:
    """The lines of a table that have so many fields; none where it is missing or no ordinary file."""
    try:
        # What is no file must not be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return []
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return []
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read(_MOST_BYTES).splitlines()
    found = [line.strip().split(":") for line in lines if not line.startswith("#")]
    return [fields for fields in found if len(fields) >= least]
