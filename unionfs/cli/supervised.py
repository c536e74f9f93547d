"""Who serves the mount of a command line: a worker that the supervisor forks, or a daemon of its own.

The supervisor is started by the first mount, from the process of its command. In a worker the same command
line is run, and serves. Must import next to nothing until there is no supervisor: that is the start of each
`pyunionfs mount`.
"""

from __future__ import annotations

import os
import sys

from unionfs.cli.commands import FUSE_OVERLAYFS

TYPE_CHECKING = False  # importing typing takes longer than all else here
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from unionfs.options.mount_options import MountOptions
    from unionfs.supervisor.client import SocketPath

_WITHOUT = frozenset(("-f", "--foreground", "-d", "--debug", "-h", "--help", "-V", "--version"))
"""Words with which a command line mounts nothing, or in its own process; or is slow in any case."""

_NEEDED = (
    *("unionfs.cli.mount", "unionfs.cli.fuse_overlayfs"),
    *("unionfs.daemon.lifecycle", "unionfs.overlay.closed", "glob"),
)
"""What a worker would else load for itself, but for the transport."""

_connection: socket | None = None
"""Of a worker, to the command that waits for it."""


def ask(words: list[str], main: Callable[[], int]) -> int | None:
    """Have the command line of this process done by a worker: its exit status; None: it was not done.

    The worker calls *main*, which is given the words by `sys.argv`. MountError: the mount was refused.
    """
    if _connection is not None or not _may_be_supervised(words):
        return None
    from unionfs.control.run_directory import make_directory
    from unionfs.supervisor import client

    directory = make_directory()
    if directory is None:
        return None
    place = client.SocketPath(directory)
    connection = place.connect()
    if connection is None:
        connection = _start_supervisor(place, main)
    if connection is None:
        return None
    return client.ask(connection, place.likeness, sys.argv[0], words)


def _may_be_supervised(words: list[str]) -> bool:
    """By a glance at the words: what is wrong here is right in `mount`, where they are parsed."""
    if not words or not _WITHOUT.isdisjoint(words) or any("supervise=off" in word for word in words):
        return False
    return words[0] == "mount" or os.path.basename(sys.argv[0]) == FUSE_OVERLAYFS or words[0].startswith("-o")


def _start_supervisor(place: SocketPath, main: Callable[[], int]) -> socket | None:
    """With all loaded that a worker needs; a connection to it. None: it cannot be, here."""
    import importlib

    from unionfs.supervisor import server
    from unionfs.transport import choose

    for module in _NEEDED:
        importlib.import_module(module)
    choose.load(choose.resolve("auto"))
    try:
        server.start(place, lambda connection: _work(connection, main))
    except OSError:
        return None
    return place.connect()


def _work(connection: socket, main: Callable[[], int]) -> int:
    """In a worker, which has become what the command would be: do what its command line says."""
    global _connection
    _connection = connection
    return main()


def mount(options: MountOptions) -> int:
    """Mount as the command line of this process says, and give its exit status when the mount is ready.

    In a worker, and with `foreground`: when it has ended. MountError: it was refused.
    """
    from unionfs.daemon import lifecycle

    if _connection is None:
        return lifecycle.mount(options)
    if options.foreground or not options.supervise:
        from unionfs.supervisor.message import DECLINED

        _connection.sendall(DECLINED)
        _connection.close()
        return 0
    return lifecycle.serve_in_this_process(options, _connection.detach(), None, warn=True)
