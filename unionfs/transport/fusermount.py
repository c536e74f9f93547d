"""Mounts and unmounts by fusermount3, which is setuid root, for ordinary users.

Imported only where it is needed: root needs it not, and `subprocess` is slow to import.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess

from unionfs.errors import MountError


def mount(mountpoint: str, options: list[str]) -> int:
    """Mount, and return the descriptor that fusermount3 passes."""
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
            message = _message(done.stderr, done.returncode)
            raise MountError(f"cannot mount {mountpoint}: {message}{_hint(done.stderr)}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise MountError(
            f"cannot mount {mountpoint}: {program} succeeded but passed no descriptor: is it fuse3's?"
            " Reinstall that, or mount as root"
        )
    return fds[0]


def unmount(mountpoint: str, *, lazy: bool) -> None:
    """OSError EBUSY: files are in use there; MountError: fusermount3 failed for another reason."""
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
    raise MountError(f"cannot unmount {mountpoint}: {_message(done.stderr, done.returncode)}")


def _program(what: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/usr/bin:/bin"
    program = shutil.which("fusermount3", path=path)
    if program is None:
        raise MountError(
            f"{what}: without root's privileges this needs fusermount3, which is not installed;"
            " install it (Debian, Ubuntu, Fedora: package fuse3) or run this as root"
        )
    return program


def _message(stderr: bytes, status: int) -> str:
    """What fusermount3 wrote to stderr, on one line and without its own name."""
    lines = (line.rpartition("fusermount3: ")[2].strip() for line in os.fsdecode(stderr).split("\n"))
    text = "; ".join(line for line in lines if line)
    return f"fusermount3 says: {text}" if text else f"fusermount3 ended with status {status}"


def _hint(stderr: bytes) -> str:
    """What to do about fusermount3's more frequent errors."""
    # fusermount3 opens the device as the calling user, so its mode matters.
    device = "; users need /dev/fuse (udev gives it mode 0666): root, run `chmod 666 /dev/fuse`"
    for words, hint in (
        (b"open /dev/fuse: Permission", device),
        (b"could not determine username", f"; user {os.getuid()} needs a line in /etc/passwd"),
        (b"user_allow_other", "; leave allow_other out, or root adds the line `user_allow_other` there"),
        (b"unknown option", "; this fusermount3 does not support it: leave it out, or mount as root"),
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
