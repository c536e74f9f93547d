"""What `pyunionfs inspect` prints of a mount."""

from __future__ import annotations

from typing import Any

from unionfs.control.status_socket import list_mounts
from unionfs.errors import MountError
from unionfs.image.inspect import DRIVER
from unionfs.options.lists import join_lowers
from unionfs.options.mount_options import resolve_mountpoint


def mount(name: str) -> dict[str, Any] | None:
    """A union by its mountpoint, whether its layers are of an image or not; None where there is none.

    Raises MountError where its daemon does not respond.
    """
    path = resolve_mountpoint(name)
    status = next((each for each in list_mounts() if each["mountpoint"] == path), None)
    if status is None or status["state"] == "detached":
        return None
    if status["state"] != "serving":
        raise MountError(
            f"cannot inspect {path}: its daemon does not respond (`pyunionfs status` has the reason)"
        )
    directories = {
        "LowerDir": join_lowers(status["lowers"], status["data_lowers"]),
        "MergedDir": path,
        "UpperDir": status["upper"],
        "WorkDir": status["work"],
    }
    return {
        "Mountpoint": path,
        "Created": status["started"],
        "State": {"Status": "running", "Running": True, "Pid": status["pid"]},
        "Options": status["options"],
        "GraphDriver": {
            "Data": {key: value for key, value in directories.items() if value is not None},
            "Name": DRIVER,
        },
    }
