"""Reads files whose mode denies that to their owner, without chmod(2): by a user namespace's capabilities.

A process that makes a namespace with its own user and group mapped has CAP_DAC_OVERRIDE there over objects of
both, as the mounter of kernel overlayfs has. It opens the file and passes the descriptor, or returns the
xattrs, because getxattr(2) needs read permission by descriptor, too. It is a process of its own, because one
with threads cannot change its namespace; it takes some 20 ms. Nothing here may write.
"""

from __future__ import annotations

import errno
import marshal
import os
import sys
from typing import Any

_NAMESPACE = """
import ctypes, marshal, os, sys
uid, gid = os.geteuid(), os.getegid()
def enter():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
    for what, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{what}", "w") as file:
            file.write(text)
"""

_OPEN = (
    _NAMESPACE
    + """
import socket
at, flags, name, reply = int(sys.argv[1]), int(sys.argv[2]), os.fsencode(sys.argv[3]), int(sys.argv[4])
channel = socket.socket(fileno=reply)
try:
    enter()
    socket.send_fds(channel, [b"0"], [os.open(name, flags, dir_fd=at)])
except OSError as error:
    channel.send(str(error.errno).encode())
"""
)

_ATTRIBUTES = (
    _NAMESPACE
    + """
path = "/proc/self/fd/" + sys.argv[1]
try:
    enter()
    result = {name: os.getxattr(path, name) for name in os.listxattr(path)}
except OSError as error:
    result = error.errno
sys.stdout.buffer.write(marshal.dumps(result))
"""
)


def open_as_owner(dirfd: int, name: bytes, flags: int) -> int:
    """Open *name*, which the caller owns, in a directory to read; the descriptor is closed on exec.

    Raises PermissionError where that fails too, or a user namespace is not permitted.
    """
    import socket  # here, because few mounts need it, and importing takes time

    ours, theirs = socket.socketpair()
    with ours, theirs:
        _run(_OPEN, [str(dirfd), str(flags), os.fsdecode(name), str(theirs.fileno())], dirfd, theirs.fileno())
        theirs.close()
        reply, fds, _, _ = socket.recv_fds(ours, 16, 1)
    if fds:
        os.set_inheritable(fds[0], False)
        return fds[0]
    raise _permission_error(int(reply or errno.EACCES))


def attributes_as_owner(fd: int) -> dict[str, bytes]:
    """All attributes of the caller's own object that *fd* is open on, which may be O_PATH.

    Raises PermissionError as `open_as_owner` does.
    """
    st = os.fstat(fd)
    if (st.st_uid, st.st_gid) != (os.geteuid(), os.getegid()):
        raise _permission_error(errno.EACCES)
    output = _run(_ATTRIBUTES, [str(fd)], fd)
    result: Any = marshal.loads(output) if output else errno.EACCES
    if isinstance(result, int):
        raise _permission_error(result)
    found: dict[str, bytes] = result
    return found


def _run(program: str, arguments: list[str], *descriptors: int) -> bytes:
    import subprocess  # see above

    words = [sys.executable, "-I", "-S", "-c", program, *arguments]
    done = subprocess.run(
        words, pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    return done.stdout


def _permission_error(code: int) -> OSError:
    if code in (errno.EPERM, errno.ENOSPC, errno.EUSERS):  # unshare(2) is not permitted
        code = errno.EACCES
    return OSError(code, os.strerror(code))
