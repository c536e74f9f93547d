"""Work in a container's root by a forked process, with a pipe to this one.

What runs there is code of ours: it may follow whatever the container has, since nothing leads out of that
root, but it must have loaded all that it needs, and look up no user or host (that would run the container's
libraries).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Literal, Protocol

from unionfs.container.mounted import call_in, end_with, own_mount
from unionfs.container.rootfs import set_root
from unionfs.container.spec import UnionSpec
from unionfs.container.volume_mounts import VolumeMounts
from unionfs.errors import ContainerError
from unionfs.linux import mount_calls, namespaces

if TYPE_CHECKING:
    from unionfs.container.orders import Volume

Work = Callable[[IO[bytes]], None]


class Root(Protocol):
    """A root, and how a forked process comes to it."""

    def call(self, work: Callable[[], None], drop: Callable[[], None], report: int) -> None:
        """Call *work* there; *drop* closes this process's end of the pipe, *report* takes what has failed."""


@contextmanager
def stream_in(
    union: UnionSpec,
    work: Work,
    direction: Literal["in", "out"],
    volumes: Sequence[Volume] = (),
    *,
    read_only: bool = False,
) -> Iterator[IO[bytes]]:
    """Call *work* in the root of a union, which is mounted for this, with one end of a pipe.

    The block has the other end: "in": it writes. At its end what *work* has raised is raised here, as
    ContainerError: it goes before what the block raises. *volumes* are mounted there, too; the root itself
    may be *read_only*.
    """
    with stream_by(_Mounted(union, volumes, read_only), work, direction) as file:
        yield file


class _Mounted:
    """A union, mounted in a namespace for this alone."""

    def __init__(self, union: UnionSpec, volumes: Sequence[Volume], read_only: bool) -> None:
        self._union = union
        self._volumes = volumes
        self._read_only = read_only

    def call(self, work: Callable[[], None], drop: Callable[[], None], report: int) -> None:
        with own_mount(self._union):
            namespaces.die_with_parent(signal.SIGKILL)  # a user namespace has undone it
            child = os.fork()
            if child == 0:
                namespaces.die_with_parent(signal.SIGKILL)
                end_with(lambda: self._call(work), report)
            drop()
            _, status = os.waitpid(child, 0)
        if status:
            os._exit(1)  # it has said why

    def _call(self, work: Callable[[], None]) -> None:
        if not self._volumes and not self._read_only:
            call_in(self._union.merged, work)
            return
        # A namespace more: what is mounted on the union there does not keep it from being unmounted here.
        namespaces.unshare(namespaces.CLONE_NEWNS)
        volumes = VolumeMounts(self._volumes)

        def prepared() -> None:
            volumes.attach()
            if self._read_only:
                set_root(mount_calls.MOUNT_ATTR_RDONLY)
            work()

        call_in(self._union.merged, prepared)


@contextmanager
def stream_by(root: Root, work: Work, direction: Literal["in", "out"]) -> Iterator[IO[bytes]]:
    """The same, in any root."""
    reader, writer = os.pipe()
    errors, report = os.pipe()
    mine, theirs = (writer, reader) if direction == "in" else (reader, writer)
    child = os.fork()
    if child == 0:
        os.close(mine)
        os.close(errors)

        # What it does is of no use then, and it has the locks of the process that it was forked from.
        namespaces.die_with_parent(signal.SIGKILL)

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
