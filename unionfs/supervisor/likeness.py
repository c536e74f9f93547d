"""What a process has got from its parent and cannot put on later: a fork of another one does as well only
where all of that is equal.

Namespaces, cgroup, credentials, capabilities, limits, scheduling, and the interpreter with its code. What a
process can put on (environment, umask, directory, descriptors) is in `message.py`. Must import next to
nothing: each `pyunionfs mount` reads this before it does anything else.
"""

from __future__ import annotations

import os
import sys

_NAMESPACES = (
    *("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children"),
    *("time", "time_for_children", "user", "uts"),
)

_STATUS = (
    *(b"Uid:", b"Gid:", b"Groups:", b"NoNewPrivs:", b"Seccomp:", b"Seccomp_filters:"),
    *(b"CapInh:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:"),
    *(b"Cpus_allowed:", b"Mems_allowed:"),
)
"""Of proc_pid_status(5). A process that was given one seccomp filter more has another number of them."""

_FILES = ("cgroup", "limits", "oom_score_adj", "attr/current", "uid_map", "gid_map")

_VARIABLES = ("PYTHON", "LC_", "LANG")
"""Beginnings of the environment variables that an interpreter reads once, when it starts."""


def likeness() -> bytes:
    """All of it, as bytes without a NUL: equal for processes that are alike."""
    parts = [_interpreter(), _status("self", (b"SigBlk:", b"SigIgn:")), standing("self")]
    return b"\n".join(parts).replace(b"\0", b"\n")


def standing(pid: str) -> bytes:
    """What of it the kernel says of a process, which that cannot make up: what it may, and where it is.

    *pid* is one of our pid namespace, or "self". OSError: that process cannot be looked at.
    """
    number = 0 if pid == "self" else int(pid)
    root = os.stat(f"/proc/{pid}/root")
    parts = [_status(pid, _STATUS), b"%d" % os.getpriority(os.PRIO_PROCESS, number)]
    parts += [_namespace(pid, name) for name in _NAMESPACES]
    parts += [_file(pid, name) for name in _FILES]
    parts.append(b"%d:%d:%d" % (root.st_dev, root.st_ino, os.sched_getscheduler(number)))
    return b"\n".join(parts)


def _interpreter() -> bytes:
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(_VARIABLES))
    return os.fsencode(
        "\n".join(
            (sys.executable, sys.version, repr(sys.flags), os.path.dirname(__file__), *sys.path, *variables)
        )
    )


def _status(pid: str, fields: tuple[bytes, ...]) -> bytes:
    return b"\n".join(line for line in _file(pid, "status").split(b"\n") if line.startswith(fields))


def _namespace(pid: str, name: str) -> bytes:
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/ns/{name}"))
    except OSError:
        return b"-"  # this kernel has none of that kind


def _file(pid: str, name: str) -> bytes:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b"-"
    try:
        text = b""
        while part := os.read(fd, 65536):
            text += part
        return text
    except OSError:
        return b"-"  # attr/current without a security module
    finally:
        os.close(fd)
