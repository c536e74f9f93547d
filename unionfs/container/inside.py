"""Work in a container's root by a forked process, with a pipe to this one; the container may be running.

What runs there is code of ours: it may follow whatever the container has, since nothing leads out of that
root, but it must have loaded all that it needs, and look up no user or host (that would run the container's
libraries).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Literal

from unionfs.container import life
from unionfs.container.mounted import call_in, end_with, own_mount
from unionfs.container.record import Container
from unionfs.container.spec import UnionSpec
from unionfs.errors import ContainerError
from unionfs.linux import namespaces

Work = Callable[[IO[bytes]], None]


@contextmanager
def stream(
    container: Container, what: str, work: Work, direction: Literal["in", "out"]
) -> Iterator[IO[bytes]]:
    """Call *work* in the container's root with one end of a pipe; the block has the other one.

    "in": the block writes. At its end what *work* has raised is raised here, as ContainerError: it goes
    before what the block raises. *what* is to be done, for messages: "copy into".
    """
    state = container.state()
    pidfd = state.open() if state.running else None
    if pidfd is not None:
        try:
            with _stream(_Running(state.pid, pidfd), work, direction) as file:
                yield file
        finally:
            os.close(pidfd)
        return
    with life.union_of(container, what) as union, stream_in(union, work, direction) as file:
        yield file


@contextmanager
def stream_in(union: UnionSpec, work: Work, direction: Literal["in", "out"]) -> Iterator[IO[bytes]]:
    """The same with a union that is not mounted."""
    with _stream(_Mounted(union), work, direction) as file:
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
        work()


class _Mounted:
    """The root of a container that does not run: its union, mounted in a namespace for this alone."""

    def __init__(self, union: UnionSpec) -> None:
        self._union = union

    def call(self, work: Callable[[], None], drop: Callable[[], None], report: int) -> None:
        with own_mount(self._union):
            child = os.fork()
            if child == 0:
                end_with(lambda: call_in(self._union.merged, work), report)
            drop()
            _, status = os.waitpid(child, 0)
        if status:
            os._exit(1)  # it has said why


@contextmanager
def _stream(root: _Running | _Mounted, work: Work, direction: Literal["in", "out"]) -> Iterator[IO[bytes]]:
    reader, writer = os.pipe()
    errors, report = os.pipe()
    mine, theirs = (writer, reader) if direction == "in" else (reader, writer)
    child = os.fork()
    if child == 0:
        os.close(mine)
        os.close(errors)

        def call() -> None:
            with open(theirs, "rb" if direction == "in" else "wb", closefd=False) as file:
                work(file)

        end_with(lambda: root.call(call, lambda: os.close(theirs), report), report)
    os.close(theirs)
    os.close(report)
    failure: BaseException | None = None
    try:
        with open(mine, "wb" if direction == "in" else "rb") as file:
            yield file
    except BaseException as error:  # raised below, unless the process has failed first
        failure = error
    with open(errors, "rb") as pipe:
        text = os.fsdecode(pipe.read())
    _, status = os.waitpid(child, 0)
    if text:
        raise ContainerError(text) from failure
    if failure is not None:
        raise failure
    if status:
        raise ContainerError("the process that works in the container was killed")
