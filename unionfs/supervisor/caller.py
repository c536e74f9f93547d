"""A forked process becomes what a child of the calling command would be.

What it cannot become is compared before: `likeness.py`. Must not print: until the end of `become` standard
error is the supervisor's.
"""

from __future__ import annotations

import os
import sys

from unionfs.linux import command_line
from unionfs.supervisor.message import Request


def become(request: Request, descriptors: list[int]) -> None:
    """Take on its environment, umask, working directory, standard descriptors and names."""
    _replace_environment(request.environment)
    command_line.replace([os.fsencode(word) for word in request.title])
    os.umask(request.umask)
    *streams, cwd = descriptors
    os.fchdir(cwd)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    for fd in descriptors:
        os.close(fd)
    sys.argv[:] = [request.program, *request.words]
    sys.orig_argv[:] = request.title
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")


def _replace_environment(wanted: dict[bytes, bytes]) -> None:
    # All of it anew: the memory of the first one is where ps(1) is shown the command line.
    os.environ.clear()
    for name, value in wanted.items():
        if name:
            os.environb[name] = value
