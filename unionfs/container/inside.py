"""Work in a container's root (`root_work.py`), whether it is running or not, with what is mounted in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Literal

from unionfs.container import life
from unionfs.container.record import Container
from unionfs.container.root_work import Work, stream_by, stream_in
from unionfs.container.run import volume_of
from unionfs.linux import namespaces


@contextmanager
def stream(
    container: Container, what: str, work: Work, direction: Literal["in", "out"]
) -> Iterator[IO[bytes]]:
    """Call *work* in the container's root with one end of a pipe, as `root_work.stream_in` does.

    Of a container that does not run the volumes and bind mounts are mounted for this, as by Docker, and no
    tmpfs. *what* is to be done, for messages: "copy into".
    """
    state = container.state()
    pidfd = state.open() if state.running else None
    if pidfd is not None:
        try:
            with stream_by(_Running(state.pid, pidfd), work, direction) as file:
                yield file
        finally:
            os.close(pidfd)
        return
    with life.union_of(container, what) as union:
        process = life.process_of(container)
        volumes = [volume_of(mount) for mount in process.mounts if mount.kind == "bind"]
        with stream_in(union, work, direction, volumes, read_only=process.read_only) as file:
            yield file


class _Running:
    """The root of a container that runs: that of its first process's mount namespace."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self._pidfd = pidfd
        same = os.stat("/proc/self/ns/user").st_ino == os.stat(f"/proc/{pid}/ns/user").st_ino
        self._flags = namespaces.CLONE_NEWNS | (0 if same else namespaces.CLONE_NEWUSER)

    def call(self, work: Callable[[], None], drop: Callable[[], None], report: int) -> None:
        # setns(2) also makes that namespace's root this process's, and its working directory.
        namespaces.setns(self._pidfd, self._flags)
        namespaces.die_with_parent(signal.SIGKILL)  # a user namespace has undone it
        work()
