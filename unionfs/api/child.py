"""The process that `launch.py` starts: it parses the options, starts the daemon, answers and exits.

The answer on standard output is JSON, `[status, message]`: 0 if the mount is ready, else the exit status of
the command.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from typing import Any, NoReturn

from unionfs.errors import OptionError, PyUnionFSError


def main(request: dict[str, Any]) -> NoReturn:
    """Process the request, and exit without the interpreter's finalization."""
    # The caller's thread may have blocked some.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    status, message = 0, ""
    try:
        _mount(request)
    except OptionError as error:
        status, message = 2, str(error)
    except (PyUnionFSError, OSError) as error:
        status, message = 1, str(error)
    with open(1, "wb", closefd=False) as out:
        out.write(json.dumps([status, message]).encode())
    os._exit(0)


def _mount(request: dict[str, Any]) -> None:
    from unionfs.daemon import lifecycle
    from unionfs.daemon.owner_process import OwnerProcess
    from unionfs.daemon.tempdir import TempDir
    from unionfs.options import mount_options
    from unionfs.overlay.root_attributes import copy_root_attributes

    with ExitStack() as stack:
        image = None
        if named := mount_options.image_of(request["options"]):
            from unionfs.container.image_option import image_layers

            image = stack.enter_context(image_layers(*named))
        parsed = mount_options.parse([request["mountpoint"]], request["options"], image=image)
        config = parsed.config
        if request["new_upper"] and config.upper is not None:
            copy_root_attributes(config.upper, config.lowers[0])
        owner = None
        if request["pidfd"] >= 0:
            owner = OwnerProcess(request["pidfd"], [TempDir(path) for path in request["temp_dirs"]])
        lifecycle.mount(parsed, owner)
