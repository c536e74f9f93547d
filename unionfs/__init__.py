"""pyunionfs: a stack of directories as one writable tree, with kernel overlayfs's semantics and format.

The public Python API, and nothing else:

    with unionfs.mount(lowers=["site", "base"]) as merged:      # a pathlib.Path
        (merged / "etc/motd").write_text("base is as it was")

    unionfs.mounts()          # what is mounted
    unionfs.umount("merged")  # returns when everything is written out and the daemon is gone

What is refused is a `MountError` or an `OptionError`, with a message for people. Names load when they are
first used; none of them loads trio or pyfuse3, for the daemon is another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unionfs.errors import MountError, OptionError, PyUnionFSError

if TYPE_CHECKING:
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
