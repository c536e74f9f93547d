"""pyunionfs: a stack of directories as one writable tree, with kernel overlayfs's semantics and format.

The public Python API, and nothing else:

    options = unionfs.parse_options(["lower1:lower2", "upper", "work", "merged"], ["volatile"])
    unionfs.mount(options)      # forks a daemon; returns when it serves
    unionfs.umount("merged")    # returns when the daemon has written everything out and is gone

What is refused is a `MountError` or an `OptionError`, with a message for people. Names load when they are
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unionfs.errors import MountError, OptionError, PyUnionFSError

if TYPE_CHECKING:
    from unionfs.control import mounts as status
    from unionfs.daemon import mount
    from unionfs.options import MountOptions
    from unionfs.options import parse as parse_options
    from unionfs.unmount import umount

__version__ = "0.1.0"

__all__ = [
    "MountError",
    "MountOptions",
    "OptionError",
    "PyUnionFSError",
    "__version__",
    "mount",
    "parse_options",
    "status",
    "umount",
]

_PLACES = {
    "MountOptions": ("unionfs.options", "MountOptions"),
    "mount": ("unionfs.daemon", "mount"),
    "parse_options": ("unionfs.options", "parse"),
    "status": ("unionfs.control", "mounts"),
    "umount": ("unionfs.unmount", "umount"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)
