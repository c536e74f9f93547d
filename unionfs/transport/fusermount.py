"""Having fusermount3, which is setuid root, mount and unmount for an ordinary user.

Loaded only where it is needed: root's mounts do without, and `subprocess` is slow to load.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess

from unionfs.errors import MountError


def mount(mountpoint: str, options: list[str]) -> int:
    """Mount, and return the descriptor that was handed over."""
    program = _program(f"cannot mount {mountpoint}")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(options), "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        theirs.close()
        if done.returncode != 0:
            said = _said(done.stderr, done.returncode)
            raise MountError(f"cannot mount {mountpoint}: {said}{_hint(done.stderr)}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise MountError(
            f"cannot mount {mountpoint}: {program} succeeded but handed over no descriptor: is it fuse3's?"
            " Install that anew, or mount as root"
        )
    return fds[0]


def unmount(mountpoint: str, *, lazy: bool) -> None:
    """OSError EBUSY: files are in use there; MountError: it did not do it for another reason."""
    done = subprocess.run(
        [_program(f"cannot unmount {mountpoint}"), "-u", *(["-z"] if lazy else []), "--", mountpoint],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode == 0:
        return
    if b"busy" in done.stderr:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mountpoint)
    raise MountError(f"cannot unmount {mountpoint}: {_said(done.stderr, done.returncode)}")


def _program(what: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/usr/bin:/bin"
    program = shutil.which("fusermount3", path=path)
    if program is None:
        raise MountError(
            f"{what}: without root's privileges this needs fusermount3, which is not installed;"
            " install it (Debian, Ubuntu, Fedora: package fuse3) or run this as root"
        )
    return program


def _said(stderr: bytes, status: int) -> str:
    """What fusermount3 wrote, on one line and without its own name."""
    lines = (line.rpartition("fusermount3: ")[2].strip() for line in os.fsdecode(stderr).split("\n"))
    text = "; ".join(line for line in lines if line)
    return f"fusermount3 says: {text}" if text else f"fusermount3 ended with status {status}"


def _hint(stderr: bytes) -> str:
    """What to do about fusermount3's commoner complaints."""
    # fusermount3 opens the device as the user who called it, so its mode counts.
    device = "; users need /dev/fuse (udev gives it mode 0666): root, run `chmod 666 /dev/fuse`"
    for words, hint in (
        (b"open /dev/fuse: Permission", device),
        (b"could not determine username", f"; user {os.getuid()} needs a line in /etc/passwd"),
        (b"user_allow_other", "; leave allow_other out, or root adds the line `user_allow_other` there"),
        (b"unknown option", "; this fusermount3 does not take it: leave it out, or mount as root"),
        (b"write access", "; the mountpoint must be a directory of your own"),
        (
            b"Operation not permitted",
            "; fusermount3 must be setuid root, and cannot help in a user namespace",
        ),
        (b"Permission denied", "; look at the modes of the mountpoint and of the directories above it"),
    ):
        if words in stderr:
            return hint
    return ""
