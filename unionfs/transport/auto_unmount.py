"""Taking a mount away when its daemon was killed: a child of the daemon that waits for its death.

The child holds nothing: no descriptor but that of the daemon's process, no directory, no terminal. It heeds
no signal but SIGKILL, because what ends a daemon by a signal (a terminal, a service manager) sends it to the
child too, and it must come last. fusermount3 offers the same, but that of libfuse 3.14 leaves a mount that
only its owner may enter (it looks at it as root), and any takes away what is mounted at that path by then.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import NoReturn

from unionfs.linux import mount as linux
from unionfs.linux import process
from unionfs.transport.detach import detach

_ANSWER_TIME = 1.0
_TRIES = 50
_PAUSE = 0.1


class Guard:
    """The child. It is told of a good end by being killed, so that it never sees what is mounted later."""

    def __init__(self, device: tuple[int, int]) -> None:
        # Opened here: the child could find another process in its parent's place.
        daemon = os.pidfd_open(os.getpid())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _watch(daemon, device)
        finally:
            os.close(daemon)

    def release(self) -> None:
        """End it; whatever is mounted stays."""
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
        # Its descriptor of the mount may be closed a moment after its end.
        for _ in range(_TRIES):
            places = _places(device)
            if not places:
                break
            if any(_is_dead(place) for place in places):
                detach(device)
                break
            time.sleep(_PAUSE)
    finally:
        os._exit(0)


def _places(device: tuple[int, int]) -> list[str]:
    """Where this mount is and nothing lies over it."""
    table = linux.mount_table()
    found = [entry for entry in table if entry.device == device]
    return [entry.path for entry in found if linux.mount_at(entry.path, table) == entry]


def _is_dead(place: str) -> bool:
    """Whether nobody serves it: the number may be that of somebody's new mount by now, and that answers."""
    return process.try_in_child(lambda: os.statvfs(place), _ANSWER_TIME) == errno.ENOTCONN
