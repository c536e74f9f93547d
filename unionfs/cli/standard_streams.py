"""Standard input, output and error, which a caller may have closed (`pyunionfs ... >&-`).

Without them the next files that are opened would have those numbers, and what is printed would be written
into a layer or to /dev/fuse.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing takes longer than all else here
if TYPE_CHECKING:
    from typing import NoReturn


def open_missing() -> None:
    """Open what is closed so that its use fails with EBADF, as glibc does it for set-id programs.

    Errors have no other place than standard error: without it they are lost, and the exit status is left.
    """
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, flags)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")


def exit_with(status: int) -> NoReturn:
    """Write out what is printed and exit, without the interpreter's finalization, which takes long."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the command has reported it where that was possible
            status = status or 1
    os._exit(status)
