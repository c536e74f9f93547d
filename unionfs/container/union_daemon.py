"""The daemon of a container's union: a process that is forked early, loads what it needs, and waits for that.

It is outside the container's pid namespace, which can neither see nor signal it, and in a mount namespace
where the union is mounted at its place and the rest is the host's: the launcher starts from there.
"""

from __future__ import annotations

import fcntl
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from unionfs.container import pipes
from unionfs.linux import mount_calls, namespaces
from unionfs.linux.process import drop_descriptors

if TYPE_CHECKING:
    from unionfs.container.orders import Serve


def main(orders: int, entered: int, ready: int) -> NoReturn:
    """In a forked process: serve the one union that is ordered. Never returns.

    *entered* gets a byte when the namespaces are there, *ready* the answer of
    `lifecycle.serve_in_this_process`.
    """
    status = 1
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # the command may have handlers
    try:
        status = _serve(orders, entered, ready)
    except OSError as error:
        os.write(ready, os.fsencode(f"-cannot make the namespaces of a container: {error.strerror}"))
    finally:
        os._exit(status)


def _serve(orders: int, entered: int, ready: int) -> int:
    parent = os.pidfd_open(os.getppid())
    os.setsid()
    drop_descriptors({0, 1, 2, orders, entered, ready, parent})
    if os.geteuid() != 0:
        from unionfs.linux import user_namespace

        user_namespace.enter(user_namespace.id_maps())
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount_calls.mount("none", "/", "none", mount_calls.MS_REC | mount_calls.MS_PRIVATE, "")
    os.write(entered, b".")
    os.close(entered)
    # Loaded before it is known what is to be mounted: that is what a start takes longest for.
    from unionfs.daemon import lifecycle
    from unionfs.daemon.owner_process import OwnerProcess
    from unionfs.options import mount_options
    from unionfs.overlay import closed  # noqa: F401
    from unionfs.transport import choose

    choose.load(choose.resolve("auto"))
    order: Serve | None = pipes.receive(orders)
    if order is None:
        return 0
    layers = mount_options.ImageLayers(
        order["name"], order["lowers"], order["override_stat"], tuple(map(_hold, order["lowers"]))
    )
    parsed = mount_options.parse([order["merged"]], order["words"], image=layers)
    return lifecycle.serve_in_this_process(parsed, ready, OwnerProcess(parent, ()))


def _hold(path: str) -> int:
    """A layer's lock, as `image/lowers.py` says; the caller has it, too, until this process serves."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd
