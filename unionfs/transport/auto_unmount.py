"""Detaches a mount when its daemon was killed: a child of the daemon that waits for its exit.

The child has no descriptor but that of the daemon's process, no directory, no terminal. It blocks all signals
but SIGKILL, because a terminal or a service manager that ends the daemon by a signal sends it to the child
too, and it must exit last. fusermount3 offers the same, but that of libfuse 3.14 leaves a mount that only its
owner may access (it does a stat as root), and every version unmounts what is at that path by then.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import NoReturn

from unionfs.linux import mount, process
from unionfs.transport.detach import detach

_STATVFS_TIMEOUT = 1.0
_RETRIES = 50
_RETRY_PAUSE = 0.1


class Guard:
    """The child. At a regular end it is killed, so that it cannot detach what is mounted later."""

    def __init__(self, device: tuple[int, int]) -> None:
        # Opened here: in the child the parent's pid could be another process's by then.
        daemon = os.pidfd_open(os.getpid())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _watch(daemon, device)
        finally:
            os.close(daemon)

    def release(self) -> None:
        """End it; the mount stays."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _watch(daemon: int, device: tuple[int, int]) -> NoReturn:
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.setsid()
        os.chdir("/")
        process.drop_descriptors({daemon})
        process.set_process_name("pyunionfs-guard")
        process.wait_for_exit(daemon, None)
        # Its descriptor of /dev/fuse may be closed a moment after its exit.
        for _ in range(_RETRIES):
            places = _places(device)
            if not places:
                break
            if any(_is_dead(place) for place in places):
                detach(device)
                break
            time.sleep(_RETRY_PAUSE)
    finally:
        os._exit(0)


def _places(device: tuple[int, int]) -> list[str]:
    """The paths at which this mount is on top."""
    table = mount.mount_table()
    found = [entry for entry in table if entry.device == device]
    return [entry.path for entry in found if mount.mount_at(entry.path, table) == entry]


def _is_dead(place: str) -> bool:
    """Whether no daemon serves it: the device number may be that of a new mount by now, which is served."""
    return process.run_in_child(lambda: os.statvfs(place), _STATVFS_TIMEOUT) == errno.ENOTCONN
