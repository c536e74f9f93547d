"""Process 1 of a container: starts the program, passes signals on to it, reaps zombies, ends with its status.

The kernel ignores signals of default action for process 1 of a pid namespace, and gives it all orphans. Most
programs are made for neither, so that `sleep` would not end at Ctrl-C and zombies would pile up: hence this
one, as Docker's `--init`. It never execs, has the container's capabilities only, and others cannot look
into it.
"""

from __future__ import annotations

import os

from unionfs.linux import signals

SIGNAL_BASE = 128


def become_init() -> None:
    """Fork the program's process, in which this returns. In this one it never returns."""
    # Blocked from before the fork: one that came earlier than sigwaitinfo(2) would be ignored.
    signals.block_all()
    program = os.fork()
    if program == 0:
        return
    status = 1
    try:
        _close_all()
        status = _serve(program)
    finally:
        os._exit(status)


def exit_status(wait_status: int) -> int:
    """As shells have it: 128 and the number of the signal that ended a process."""
    code = os.waitstatus_to_exitcode(wait_status)
    return SIGNAL_BASE - code if code < 0 else code


def _close_all() -> None:
    """Standard output, for one, is at its end when the program has closed it."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, 256)


def _serve(program: int) -> int:
    while True:
        number = signals.wait()
        if number == signals.SIGCHLD:
            status = _reap(program)
            if status is not None:
                return status
        else:
            os.kill(program, number)


def _reap(program: int) -> int | None:
    """Reap all that have ended; the program's exit status if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == program:
            return exit_status(status)
        if pid == 0:
            return None
