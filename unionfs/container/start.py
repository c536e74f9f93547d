"""Starting a container of the store: its union, its process, and what is recorded of both. Prints nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from unionfs.container import init_layer, record, run
from unionfs.container.record import Container
from unionfs.container.runner import FAILED, Runner, StartError
from unionfs.container.spec import Mount, ProcessSpec, UnionSpec
from unionfs.container.state import Run, identity, now
from unionfs.errors import ContainerError, PyUnionFSError
from unionfs.image.lowers import hold, release, tree_paths

_STARTED = b"+"
_SEPARATOR = b" "


def start(
    container: Container,
    runner: Runner | None = None,
    *,
    interactive: bool | None = None,
    started: Callable[[], None] = lambda: None,
) -> int:
    """Run the container's process and return its exit status, as `run.run_in`.

    *interactive* says otherwise than the record whether standard input is passed on. `started` is called when
    the program has been reached. A container that is to be removed at its end is, whatever the end. Raises
    StartError, and ContainerError where it runs already.
    """
    spec = container.record.process
    if interactive is not None:
        spec = msgspec.structs.replace(spec, interactive=interactive)
    try:
        with container.lock("start"):
            return _run(container, spec, runner, started)
    finally:
        if container.record.auto_remove:
            record.remove(container)


def start_in_background(container: Container) -> None:
    """Start it and return: a process of its own waits for the end. What it prints is discarded.

    Raises what `start` raises before the program is reached.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _in_background(container, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    if answer != _STARTED:
        status, _, message = answer.partition(_SEPARATOR)
        raise StartError(os.fsdecode(message) or "its process was killed", int(status or FAILED))


def join(container: Container, spec: ProcessSpec) -> int:
    """Run a further process in the container, with what concerns the process of *spec*; as `run.run_in`.

    Raises ContainerError where the container does not run, and StartError.
    """
    state = container.state()
    pidfd = state.open()
    if pidfd is None:
        raise ContainerError(f"container {container.name} is not running: start it first")
    try:
        return run.join(spec, state.pid, pidfd)
    finally:
        os.close(pidfd)


def _run(container: Container, spec: ProcessSpec, runner: Runner | None, started: Callable[[], None]) -> int:
    with container.store.in_use():
        lowers = hold(tree_paths(container.layers()))
    noted: list[Run] = []

    def note(pid: int) -> None:
        noted.append(Run(pid, identity(pid) or "", now()))
        container.note(noted[0])
        started()

    try:
        init_layer.refresh(container.init, spec.hostname)
        _make_sources(spec.mounts)
        union = UnionSpec(
            lowers=(str(container.init), *lowers.paths),
            upper=str(container.upper),
            work=str(container.work),
            merged=str(container.merged),
            override_stat=lowers.override_stat,
            options=("volatile",) if container.record.auto_remove else (),
            name=container.record.image,
        )
        status = run.run_in(spec, union, note, runner)
    except StartError as error:
        container.note(Run(0, "", now(), now(), error.status, str(error)))
        raise
    finally:
        release(lowers)
    container.note(msgspec.structs.replace(noted[0], finished=now(), exit_code=status))
    return status


def _make_sources(mounts: Sequence[Mount]) -> None:
    """Make directories for the sources of volumes that are missing, as Docker does."""
    for mount in mounts:
        if mount.kind == "bind":
            try:
                if not os.path.exists(mount.source):
                    os.makedirs(mount.source)
            except OSError as error:
                raise StartError(f"cannot make the volume {mount.source}: {error.strerror}") from error


def _in_background(container: Container, writer: int) -> NoReturn:
    """In a forked process: start it, report that, and wait for the end."""

    def report() -> None:
        os.write(writer, _STARTED)
        os.close(writer)

    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        start(container, started=report)
    except StartError as error:
        os.write(writer, b"%d " % error.status + os.fsencode(str(error)))
    except PyUnionFSError as error:
        os.write(writer, b"%d " % FAILED + os.fsencode(str(error)))
    finally:
        os._exit(0)
