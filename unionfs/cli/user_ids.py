"""An ordinary user's commands on trees of images and containers: in a user namespace with the user's own ids.

There the user is root, with the ids of /etc/subuid beside: files of layers have the owners that they are to
have, as in `podman unshare`. A user with no further ids stays outside, and attributes say the owners.
"""

from __future__ import annotations

import os

from unionfs.errors import ContainerError
from unionfs.image.store import VARIABLE, default_root
from unionfs.linux import user_namespace

COMMANDS = frozenset(
    ("pull", "push", "load", "import", "export", "commit", "rmi", "prune", "df")
    + ("run", "create", "start", "diff", "rm")
)
"""Those that make, read or remove trees. exec and cp enter the namespace of the container instead."""


def enter() -> None:
    """Move this process there, unless it is root's or the user has no further ids. Raises ContainerError."""
    maps = user_namespace.id_maps()
    if maps.single:
        return
    # The store is the user's, not root's.
    os.environ[VARIABLE] = str(default_root())
    try:
        user_namespace.enter(maps)
    except OSError as error:
        raise ContainerError(f"cannot make a user namespace: {error.strerror}") from error
