"""Ending a container from outside. The command that waits for its end records that."""

from __future__ import annotations

import os
import signal

from unionfs.container.record import Container
from unionfs.errors import ContainerError
from unionfs.linux.process import wait_for_exit

TIMEOUT = 10.0
"""Seconds for what SIGKILL leaves to do: the union writes its data out."""


def kill(container: Container) -> None:
    """Kill the container's first process, and with it all others, and return when it has ended.

    Does nothing where it does not run. Raises ContainerError where it does not end.
    """
    state = container.state()
    if not state.running:
        return
    pidfd = state.open()
    if pidfd is not None:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if not wait_for_exit(pidfd, TIMEOUT):
                raise ContainerError(
                    f"container {container.name}: process {state.pid} does not end: it waits in the kernel,"
                    " for a disk or a network filesystem"
                )
        finally:
            os.close(pidfd)
