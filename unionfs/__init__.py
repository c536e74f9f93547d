"""pyunionfs: a union filesystem in FUSE, with the semantics and the on-disk format of kernel overlayfs.

The public Python API, and nothing else:

    with unionfs.mount(lowers=["site", "base"]) as merged:      # a pathlib.Path
        (merged / "etc/motd").write_text("base is as it was")

    unionfs.mounts()          # what is mounted
    unionfs.umount("merged")  # returns when all data is written and the daemon has terminated

Errors are `MountError` and `OptionError`, with a message of one line. Names are imported when they are first
used; none of them imports trio or pyfuse3, because the daemon is another process.
"""

from __future__ import annotations

from unionfs.errors import MountError, OptionError, PyUnionFSError

TYPE_CHECKING = False  # importing typing takes longer than all else that a command imports first
if TYPE_CHECKING:
    from typing import Any

    from unionfs.api.keywords import Options
    from unionfs.api.table import Mounted, mounts, umount
    from unionfs.api.union import Mount, mount

__version__ = "0.2.0"

__all__ = [
    "Mount",
    "MountError",
    "Mounted",
    "OptionError",
    "Options",
    "PyUnionFSError",
    "__version__",
    "mount",
    "mounts",
    "umount",
]

_PLACES = {
    "Mount": "unionfs.api.union",
    "Mounted": "unionfs.api.table",
    "Options": "unionfs.api.keywords",
    "mount": "unionfs.api.union",
    "mounts": "unionfs.api.table",
    "umount": "unionfs.api.table",
}


if not TYPE_CHECKING:  # a type checker would take it for "any name will do"

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
