"""Work in a container's root by a forked process, with a pipe to this one; the container may be running.

What runs there is code of ours: it may follow whatever the container has, since nothing leads out of that
root, but it must have loaded all that it needs, and look up no user or host (that would run the container's
libraries).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Literal, NoReturn

from unionfs.container import life
from unionfs.container.record import Container
from unionfs.container.spec import UnionSpec
from unionfs.control import unmount
from unionfs.daemon import lifecycle
from unionfs.errors import ContainerError, PyUnionFSError, explain
from unionfs.linux import mount_calls, namespaces, user_namespace
from unionfs.options import mount_options
from unionfs.options.lists import escape

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
    with life.union_of(container, what) as union, _stream(_Mounted(union), work, direction) as file:
        yield file


class _Running:
    """The root of a container that runs: that of its first process's mount namespace."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self._pidfd = pidfd
        same = os.stat("/proc/self/ns/user").st_ino == os.stat(f"/proc/{pid}/ns/user").st_ino
        self._flags = namespaces.CLONE_NEWNS | (0 if same else namespaces.CLONE_NEWUSER)

    def call(self, work: Callable[[], None], drop: Callable[[], None]) -> None:
        # setns(2) also makes that namespace's root this process's, and its working directory.
        namespaces.setns(self._pidfd, self._flags)
        work()


class _Mounted:
    """The root of a container that does not run: its union, mounted in a namespace for this alone."""

    def __init__(self, union: UnionSpec) -> None:
        self._union = union

    def call(self, work: Callable[[], None], drop: Callable[[], None]) -> None:
        union = self._union
        if os.geteuid() != 0:
            user_namespace.enter(user_namespace.id_maps())
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount_calls.mount("none", "/", "none", mount_calls.MS_REC | mount_calls.MS_PRIVATE, "")
        words = [f"upperdir={escape(union.upper)}", f"workdir={escape(union.work)}", *union.options]
        layers = mount_options.ImageLayers(union.name, union.lowers, union.override_stat, union.held)
        lifecycle.mount(mount_options.parse([union.merged], words, image=layers))
        try:
            child = os.fork()
            if child == 0:
                _end_with(lambda: self._in_root(work))
            drop()
            _, status = os.waitpid(child, 0)
        finally:
            unmount.umount(union.merged)
        if status:
            os._exit(1)  # it has said why

    def _in_root(self, work: Callable[[], None]) -> None:
        os.chroot(self._union.merged)
        os.chdir("/")
        work()


_errors: int = -1
"""In a forked process: the pipe for the reason of its failure."""


@contextmanager
def _stream(root: _Running | _Mounted, work: Work, direction: Literal["in", "out"]) -> Iterator[IO[bytes]]:
    reader, writer = os.pipe()
    errors, report = os.pipe()
    mine, theirs = (writer, reader) if direction == "in" else (reader, writer)
    child = os.fork()
    if child == 0:
        global _errors
        _errors = report
        os.close(mine)
        os.close(errors)

        def call() -> None:
            with open(theirs, "rb" if direction == "in" else "wb", closefd=False) as file:
                work(file)

        _end_with(lambda: root.call(call, lambda: os.close(theirs)))
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


def _end_with(action: Callable[[], None]) -> NoReturn:
    """In a forked process: call *action*, report what it raises, and end."""
    status = 1
    try:
        action()
        status = 0
    except PyUnionFSError as error:
        os.write(_errors, os.fsencode(str(error)))
    except BrokenPipeError:
        pass  # the other side has failed, and knows why
    except OSError as error:
        os.write(_errors, os.fsencode(explain(error)))
    finally:
        os._exit(status)
