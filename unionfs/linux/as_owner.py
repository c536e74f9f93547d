"""Opening what a mode denies to its owner without changing the mode, by the capabilities of a user namespace.

A process that makes a namespace in which its own user and group are known has CAP_DAC_OVERRIDE there over
what belongs to both, as the mounter of kernel overlayfs has. It opens the file and hands the descriptor over.
It is a process of its own, since one with threads cannot change its namespace; it takes some 20 ms. Nothing
here may write.
"""

from __future__ import annotations

import errno
import os
import sys

_CHILD = """
import ctypes, os, socket, sys
at, flags, name, answer = int(sys.argv[1]), int(sys.argv[2]), os.fsencode(sys.argv[3]), int(sys.argv[4])
uid, gid = os.geteuid(), os.getegid()
channel = socket.socket(fileno=answer)
try:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
    for what, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{what}", "w") as file:
            file.write(text)
    socket.send_fds(channel, [b"0"], [os.open(name, flags, dir_fd=at)])
except OSError as error:
    channel.send(str(error.errno).encode())
"""


def open_as_owner(dirfd: int, name: bytes, flags: int) -> int:
    """Open *name*, which the caller owns, in a directory to read; the descriptor is closed on exec.

    Raises PermissionError where that does not help, or the kernel gives no user namespace.
    """
    import socket  # here, so that no mount waits for what few need
    import subprocess

    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [sys.executable, "-I", "-S", "-c", _CHILD]
        words += [str(dirfd), str(flags), os.fsdecode(name), str(theirs.fileno())]
        subprocess.run(words, pass_fds=(dirfd, theirs.fileno()), stdin=subprocess.DEVNULL, check=False)
        theirs.close()
        said, fds, _, _ = socket.recv_fds(ours, 16, 1)
    if fds:
        os.set_inheritable(fds[0], False)
        return fds[0]
    code = int(said or errno.EACCES)
    if code in (errno.EPERM, errno.ENOSPC, errno.EUSERS):  # no namespace for this user
        code = errno.EACCES
    raise OSError(code, os.strerror(code))
