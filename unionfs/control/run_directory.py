"""The directory that has this user's sockets: those of daemons, and the supervisor's.

A directory that another user could enter is not used. Must import next to nothing: each `pyunionfs mount`
looks for the supervisor there.
"""

from __future__ import annotations

import os
import stat


def directories() -> list[str]:
    """Where this user's sockets may be, in the order in which a directory for a new one is tried."""
    uid = os.geteuid()
    places = ["/run/pyunionfs"] if uid == 0 else []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):
        places.append(os.path.join(runtime, "pyunionfs"))
    uid = _outer_uid(uid)
    places += [f"/run/user/{uid}/pyunionfs", f"/tmp/pyunionfs-{uid}"]
    return list(dict.fromkeys(places))


def make_directory() -> str | None:
    """The directory for this user's sockets, made when it is missing; None when there is no safe place."""
    for path in directories():
        try:
            if not _keeps_its_names(os.path.dirname(path)):
                continue
            _make(path)
            st = os.lstat(path)
        except OSError:
            continue  # cannot be made: the next place
        # In /tmp another user could have made it first, or put a symlink there.
        if stat.S_ISDIR(st.st_mode) and st.st_uid == os.geteuid() and stat.S_IMODE(st.st_mode) == 0o700:
            return path
    return None


def _keeps_its_names(parent: str) -> bool:
    """Whether no other user may rename what lies there: after `sudo -E` XDG_RUNTIME_DIR is another user's."""
    st = os.stat(parent)
    if st.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not st.st_mode & stat.S_ISVTX:
        return False
    if st.st_uid in (0, os.geteuid()):
        return True
    from unionfs.linux.overflow_id import overflow_id

    # In a user namespace root outside of it is one of the ids without a meaning.
    return st.st_uid == overflow_id("uid")


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # whether it is a directory of this user is looked at next


def _outer_uid(uid: int) -> int:
    """This user's id in the initial user namespace: every namespace has a root, and they differ."""
    with open("/proc/self/uid_map", encoding="ascii") as table:
        for line in table:
            inside, outside, count = map(int, line.split())
            if inside <= uid < inside + count:
                return outside + uid - inside
    return uid
