"""Running a process in a container, by data: the face of what starts processes. It writes to no store."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from unionfs.container.process import environment
from unionfs.container.runner import Launcher, Runner, StartError
from unionfs.container.spec import Mount, ProcessSpec, UnionSpec
from unionfs.linux import mount_calls, namespaces
from unionfs.options.lists import escape

if TYPE_CHECKING:
    from unionfs.container.orders import Join, Process, Serve, Start, Volume

FILES = ("hosts", "hostname", "resolv.conf")
"""What of the init layer's /etc is mounted over the container's, so that changes of it are in no layer."""


def run_in(
    spec: ProcessSpec,
    union: UnionSpec,
    started: Callable[[int], None] = lambda pid: None,
    runner: Runner | None = None,
) -> int:
    """Run a process in a new container and return its exit status: 128 and a signal's number if one ended it.

    `started` is called with the pid of the container's first process when its program has been reached.
    Raises StartError. Signals to this process are passed on; its end is the container's. A *runner* was made
    by the caller, and is ended by it.
    """
    if runner is None:
        with Runner() as own:
            return own.run(_serve(union), _start(spec, union), started)
    return runner.run(_serve(union), _start(spec, union), started)


def run_beside(spec: ProcessSpec, pid: int, pidfd: int) -> int:
    """Run a further process in a container, by its first process; the exit status as of `run_in`.

    Of *spec* counts what concerns the process alone. Raises StartError.
    """
    own = os.stat("/proc/self/ns/user").st_ino == os.stat(f"/proc/{pid}/ns/user").st_ino

    def enter() -> None:
        os.set_inheritable(pidfd, True)
        if not own:
            namespaces.setns(pidfd, namespaces.CLONE_NEWUSER)
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount_calls.mount("none", "/", "none", mount_calls.MS_REC | mount_calls.MS_PRIVATE, "")

    order: Join = {"process": _process(spec), "first": pidfd, "pid": pid}
    launcher = Launcher(enter)
    try:
        launcher.order(order)
        launcher.start(lambda started: None)
        return launcher.wait()
    finally:
        launcher.end()


def _serve(union: UnionSpec) -> Serve | None:
    if not union.lowers:
        return None
    return {
        "lowers": union.lowers,
        "override_stat": union.override_stat,
        "words": [f"upperdir={escape(union.upper)}", f"workdir={escape(union.work)}", *union.options],
        "merged": union.merged,
        "name": union.name,
    }


def _start(spec: ProcessSpec, union: UnionSpec) -> Start:
    files = []
    for name in FILES if union.lowers else ():
        path = f"{union.lowers[0]}/etc/{name}"
        if os.path.isfile(path):
            files.append((path, f"/etc/{name}"))
    return {
        "process": _process(spec),
        "root": union.merged,
        "bind_root": not union.lowers,
        "volumes": [volume_of(each) for each in spec.mounts],
        "files": files,
        "hostname": spec.hostname,
        "read_only": spec.read_only,
        "init": spec.init,
    }


def _process(spec: ProcessSpec) -> Process:
    """Raises StartError where the image or the caller has what no process can have."""
    for word in (*spec.args, *spec.env, spec.cwd, spec.user):
        if "\0" in word:
            raise StartError(f"cannot start {word!r}: it holds a byte 0")
    return {
        "args": list(spec.args),
        "env": dict(environment(spec)),
        "cwd": spec.cwd,
        "user": spec.user,
        "tty": spec.tty,
        "interactive": spec.interactive,
    }


def volume_of(mount: Mount) -> Volume:
    """A bind mount or a tmpfs, as plain data."""
    return {
        "kind": mount.kind,
        "target": mount.target,
        "source": mount.source,
        "read_only": mount.read_only,
        "options": list(mount.options),
    }
