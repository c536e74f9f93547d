"""The life of a container: its root put together, its process run, start and end recorded.

What runs it is `run.py`, or an OCI runtime. Prints nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

import msgspec

from unionfs.container import init_layer, record, volumes
from unionfs.container.record import Container
from unionfs.container.run import run_beside, run_in
from unionfs.container.runner import Runner, StartError
from unionfs.container.spec import ProcessSpec, UnionSpec
from unionfs.container.state import Run, identity, now
from unionfs.errors import ContainerError, PyUnionFSError
from unionfs.image.lowers import hold, release

_REACHED = b"+"


@contextmanager
def union_of(container: Container, what: str) -> Iterator[UnionSpec]:
    """The container's root, to be mounted, with the container locked and its layers held.

    *what* is to be done, for the message: "start". Raises ContainerError.
    """
    with container.lock(what):
        if container.state().running:
            raise ContainerError(f"cannot {what} container {container.name}: it is running")
        init_layer.refresh(container.init, container.record.process.hostname)
        with container.store.in_use():
            lowers = hold(container.lowers())
        try:
            yield UnionSpec(
                lowers.paths,
                str(container.upper),
                str(container.work),
                str(container.merged),
                lowers.override_stat,
                lowers.held,
                # What is removed at its end needs no sync.
                options=("volatile",) if container.record.auto_remove else (),
                name=container.name,
            )
        finally:
            release(lowers)


def run(
    container: Container,
    *,
    interactive: bool = True,
    reached: Callable[[], None] = lambda: None,
    runner: Runner | None = None,
) -> int:
    """Start a container, wait for its end, and return its exit status. Raises StartError, ContainerError.

    Without *interactive* standard input is not passed on. *reached* is called when its program has been. One
    that is to be removed at its end is, whatever the end. *runner* as of `run_in`.
    """
    with ExitStack() as at_end, union_of(container, "start") as union:
        if container.record.auto_remove:
            at_end.callback(record.remove, container)
        process = process_of(container)
        if not interactive:
            process = msgspec.structs.replace(process, interactive=False)
        return _run(container, union, process, reached, runner)


def join(container: Container, process: ProcessSpec) -> int:
    """Run a further process in a container that runs, with what concerns the process alone of *process*.

    Returns its exit status. Raises StartError, and ContainerError where the container does not run.
    """
    state = container.state()
    pidfd = state.open()
    if pidfd is None:
        raise ContainerError(f"container {container.name} is not running: start it first")
    try:
        return run_beside(process, state.pid, pidfd)
    finally:
        os.close(pidfd)


def _run(
    container: Container,
    union: UnionSpec,
    process: ProcessSpec,
    reached: Callable[[], None],
    runner: Runner | None,
) -> int:
    runs: list[Run] = []

    def started(pid: int) -> None:
        runs.append(Run(pid, identity(pid) or "", now()))
        container.note(runs[0])
        reached()

    try:
        if container.record.runtime:
            from unionfs.container import runtime

            place = container.path / "bundle"
            status = runtime.run(container.record.runtime, process, union, container.id, place, started)
        else:
            status = run_in(process, union, started, runner)
    except StartError as error:
        container.note(Run(0, "", now(), now(), error.status, str(error)))
        raise
    container.note(msgspec.structs.replace(runs[0], finished=now(), exit_code=status))
    return status


def run_in_background(container: Container) -> None:
    """Start a container, and return when its program has been reached. Raises StartError, ContainerError.

    A process of its own waits for the end. Standard input is empty, and output goes into `Container.output`.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _wait_in_background(container, writer)
    os.close(writer)
    with open(reader, "rb", buffering=0) as pipe:
        answer = pipe.read(1)
        if answer != _REACHED:  # else others have the pipe open as long as the container runs
            answer += pipe.read()
    os.waitpid(child, 0)
    if answer != _REACHED:
        code, _, text = os.fsdecode(answer).partition(" ")
        raise StartError(text or f"cannot start container {container.name}: it was killed", int(code or 125))


def _wait_in_background(container: Container, writer: int) -> NoReturn:
    """In a forked process: leave terminal and parent, run the container, and end with it."""
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        output = os.open(container.output, flags, 0o600)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for fd, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(fd, target)

        def reached() -> None:
            os.write(writer, _REACHED)
            os.close(writer)

        status = run(container, interactive=False, reached=reached)
    except StartError as error:
        os.write(writer, os.fsencode(f"{error.status} {error}"))
    except (PyUnionFSError, OSError) as error:
        os.write(writer, os.fsencode(f"125 {error}"))
    finally:
        os._exit(status)


def process_of(container: Container) -> ProcessSpec:
    """The process, with volumes as bind mounts. Raises ContainerError where the source of one is missing.

    Directories of the host that are to be shown and are not there are made, as by Docker.
    """
    process = volumes.as_binds(container.store, container.record.process)
    for mount in process.mounts:
        if mount.kind == "bind" and not os.path.lexists(mount.source):
            try:
                os.makedirs(mount.source)
            except OSError as error:
                raise ContainerError(
                    f"cannot make the directory {mount.source} of --volume: {error.strerror}"
                ) from error
    return process
