"""Namespaces, and what a process loses for good: calls that Python's `os` lacks, as plain typed functions.

Failures are `OSError` with the kernel's errno. A process with threads cannot enter a user namespace. Imports
little: a container's process loads this on its way to exec.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_CAPABILITY_VERSION_3 = 0x20080522

_NR_CLOSE_RANGE = 436
_CLOSE_RANGE_CLOEXEC = 4

_KEYCTL_JOIN_SESSION_KEYRING = 1
_NR_KEYCTL = {"x86_64": 250, "i686": 288, "armv7l": 311, "ppc64le": 271, "s390x": 280}
_NR_KEYCTL_GENERIC = 219

_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.sethostname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.syscall.restype = ctypes.c_long


def unshare(flags: int) -> None:
    """unshare(2) with `CLONE_NEW*`. A new pid namespace is for the children to come."""
    _check(_libc.unshare(flags))


def setns(fd: int, flags: int) -> None:
    """setns(2): enter the namespaces *flags* of the process of a pidfd (Linux 5.8)."""
    _check(_libc.setns(fd, flags))


def sethostname(name: str) -> None:
    """sethostname(2), of the UTS namespace."""
    encoded = os.fsencode(name)
    _check(_libc.sethostname(encoded, len(encoded)))


def die_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def hide_from_others() -> None:
    """Deny others what ptrace(2) and the links of /proc/PID give, up to the next exec (PR_SET_DUMPABLE)."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def set_no_new_privs() -> None:
    """Have no exec give privileges any more: of set-id bits or file capabilities."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def drop_from_bounding_set(capability: int) -> None:
    """PR_CAPBSET_DROP. EINVAL: the kernel has no capability of that number."""
    _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))


def clear_ambient_set() -> None:
    """PR_CAP_AMBIENT_CLEAR_ALL."""
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))


def permitted_capabilities() -> int:
    """The permitted set of the calling thread, as a bit mask."""
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(ctypes.c_char_p(_capability_header()), data))
    low, high = struct.unpack_from("=4xI8xI", data.raw)
    return int(low | high << 32)


def set_capabilities(permitted: int) -> None:
    """Set the permitted and the effective set of the calling thread, and clear the inheritable one."""
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    _check(_libc.capset(ctypes.c_char_p(_capability_header()), ctypes.c_char_p(data)))


def join_new_session_keyring() -> None:
    """Leave the session keyring of the caller (keyctl(2)): nothing else keeps a namespace from its keys."""
    number = _NR_KEYCTL.get(os.uname().machine, _NR_KEYCTL_GENERIC)
    _check(
        _libc.syscall(
            ctypes.c_long(number), ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING), ctypes.c_char_p(None)
        )
    )


def close_on_exec_from(first: int) -> None:
    """Have exec close every descriptor from this number on (close_range(2), Linux 5.11)."""
    last = ctypes.c_uint(0xFFFFFFFF)
    _check(_libc.syscall(_NR_CLOSE_RANGE, ctypes.c_uint(first), last, ctypes.c_uint(_CLOSE_RANGE_CLOEXEC)))


def set_command_line(words: str) -> None:
    """Change what /proc/PID/cmdline and comm show: to *words*, cut to the length of what was there."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc_pid_stat(5)
    text = words.encode()[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))
    with open("/proc/self/comm", "w", encoding="utf-8") as comm:
        comm.write(words)


def _capability_header() -> bytes:
    return struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
