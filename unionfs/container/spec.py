"""What a container's process and its root are to be, as data. Nothing here looks at the store or the system.

Agreed between what records containers and what runs them.

Structs and no dataclasses, because `container.json` holds a ProcessSpec as it is.
"""

from __future__ import annotations

from typing import Literal

import msgspec

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Docker's, for images that set none."""


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something mounted in the container beside its root, /proc, /sys and /dev."""

    kind: Literal["bind", "volume", "tmpfs"]
    """A volume is one of the store's (`volumes.py`): what starts a process knows it as a bind mount."""
    target: str
    """The absolute path in the container. It is made where it is missing, as by Docker."""
    source: str = ""
    """The absolute path on the host, of a bind mount; the name of a volume."""
    read_only: bool = False
    options: tuple[str, ...] = ()
    """Of a tmpfs, as for mount(8): `size=64m`, `mode=1777`. Docker's defaults: noexec, nosuid, nodev. Of a
    volume: `nocopy`, where it is not filled from the image."""
    anonymous: bool = False
    """Whether it is a volume that was made for this container alone, which `rm -v` removes with it."""


class ProcessSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What runs, and how it sees the system."""

    args: tuple[str, ...]
    """Entrypoint and command, one at least."""
    env: tuple[str, ...] = ()
    """NAME=VALUE, each name once: as image and caller say. `process.environment` adds to it."""
    cwd: str = "/"
    """Absolute; it is made where it is missing, as by Docker."""
    user: str = ""
    """USER[:GROUP], names or numbers, to be looked up in the container; empty: root."""
    hostname: str = ""
    tty: bool = False
    interactive: bool = False
    """Whether standard input is passed on; else it is /dev/null."""
    read_only: bool = False
    """Whether the root is mounted read-only."""
    init: bool = True
    """Whether process 1 is one that passes signals on and reaps zombies, as by Docker's --init."""
    mounts: tuple[Mount, ...] = ()
    stop_signal: str = ""
    """A name or number, as the image says; empty: SIGTERM."""


class UnionSpec(msgspec.Struct, frozen=True):
    """The directories of a container's root, by absolute paths."""

    lowers: tuple[str, ...]
    """Topmost first: the init layer, then the image's layers. Empty: *merged* is a plain directory."""
    upper: str
    """Empty: none, and the union is read-only."""
    work: str
    merged: str
    """The mountpoint, an empty directory."""
    override_stat: bool = False
    """Whether `override_stat` attributes say owners and modes in the lowers (`xattr_permissions=2`)."""
    held: tuple[int, ...] = ()
    """Descriptors with locks that say that a mount has these layers: the daemon takes them, too."""
    options: tuple[str, ...] = ()
    """Further mount options: `volatile` for what is removed at its end."""
    name: str = "pyunionfs"
    """What the mount table shows as its source."""
