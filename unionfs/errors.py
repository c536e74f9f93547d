"""What can go wrong before a mount serves, and with an image, as exceptions.

    PyUnionFSError
    ├── OptionError      the command line or a mount option is wrong
    ├── MountError       the machine or the directories refuse
    ├── ImageError       an image, a layer, a registry or the store does not hold what it must
    │   └── NotFoundError   there is no such image, layer or blob
    └── ContainerError   a container cannot be made, started or changed

A message is one line: what was asked, what is wrong and what to do about it. It is printed as it stands, so
it names paths and never a Python type. What a request of a running mount gets is never one of these but an
`OSError`.
"""

from __future__ import annotations

import errno
import os


class PyUnionFSError(Exception):
    """Base of everything that this program refuses with a line for people."""


class OptionError(PyUnionFSError):
    """The command line or a mount option is unknown, malformed or contradicts another."""


class MountError(PyUnionFSError):
    """The machine or the directories cannot do what was asked, or it would lose data."""


class ImageError(PyUnionFSError):
    """An image, a layer, a registry or the store does not hold what it must; nothing was stored."""


class NotFoundError(ImageError):
    """There is no such image, layer or blob, where it was looked for."""


class ContainerError(PyUnionFSError):
    """A container cannot be made, started or changed as asked."""


_STEPS = {
    errno.EACCES: "look at the modes of it and of the directories above it, or run this as root",
    errno.EPERM: "only root may do that",
    errno.ENOENT: "correct the path, or create it",
    errno.ENOTDIR: "something in that path is no directory: correct it",
    errno.ELOOP: "symlinks in that path lead in a circle: correct them",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ENOSPC: "make room on that filesystem",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EROFS: "use a filesystem that can be written",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "the system has no descriptor left: end programs that hold many",
    errno.ENOMEM: "the system has no memory left: free some",
    errno.EIO: "its disk has failed, which `dmesg` may tell more about",
    errno.ESTALE: "what it was is gone from that filesystem: unmount and mount that again",
    errno.ENOTCONN: "the daemon of a FUSE mount there has died: unmount that",
}


def explain(error: OSError) -> str:
    """What the system has refused, in one line: the path, the reason, and what to do where that is known."""
    path = error.filename
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes) else ""
    text = where + (error.strerror or str(error))
    return f"{text}; {_STEPS[error.errno]}" if error.errno in _STEPS else text
