"""A container as an image to be: what it runs, and having all of its writes in upper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from unionfs.container import volumes
from unionfs.container.process import parted
from unionfs.container.record import Container
from unionfs.image.model import RuntimeConfig
from unionfs.linux.syscalls import syncfs


def config_of(
    container: Container, section: Mapping[str, Any], image: RuntimeConfig | None
) -> dict[str, Any]:
    """The section `config` of its image, with what this container runs in place of what others would.

    As Docker has it, whose image runs by default what the container ran.
    """
    process = container.record.process
    entrypoint, command = parted(process.args, image)
    changed = {
        **section,
        "Env": [*process.env],
        "Entrypoint": entrypoint or None,
        "Cmd": command or None,
        "WorkingDir": process.cwd if process.cwd != "/" else section.get("WorkingDir"),
        "User": process.user,
        "Volumes": volumes.of_config(section.get("Volumes"), process.mounts) or None,
    }
    return {key: value for key, value in changed.items() if value or key in section}


def flush(container: Container) -> None:
    """Have the kernel hand what programs have written to the union's daemon, and that to upper.

    Of a container whose daemon serves files by passthrough it is there at once.
    """
    state = container.state()
    if not state.running:
        return
    with suppress(FileNotFoundError, PermissionError):  # it has ended, or is another user's
        fd = os.open(f"/proc/{state.pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
