"""An ordinary user's commands on trees of images and containers: in a user namespace with the user's own ids.

There the user is root, with the ids of /etc/subuid beside: files of layers have the owners that they are to
have, as in `podman unshare`. A user with no further ids stays outside, and attributes say the owners. A store
that was made so stays so when the user gets ids later: layers are written in its form in the namespace, too.
"""

from __future__ import annotations

import os
from pathlib import Path

from unionfs.errors import ContainerError
from unionfs.image import layer_record
from unionfs.image.layer_record import USERNS
from unionfs.image.store import VARIABLE, default_root
from unionfs.linux import user_namespace


def enter(root: Path) -> None:
    """Move this process there, for the store *root*, unless it is root's or the user has no further ids.

    Raises ContainerError, also where the store has files of ids that the user had once.
    """
    if os.geteuid() == 0:
        return
    maps = user_namespace.id_maps()
    if maps.single:
        if layer_record.form_of(root) == USERNS:
            raise ContainerError(
                f"{root}: its layers were unpacked in a user namespace, and their files belong to ids of this"
                " user's that are not to be had now: give the user the same ranges in /etc/subuid and"
                " /etc/subgid again, and newuidmap (package uidmap), or use another --store"
            )
        return
    # The store is the user's, not root's.
    os.environ[VARIABLE] = str(default_root())
    try:
        user_namespace.enter(maps)
    except OSError as error:
        raise ContainerError(f"cannot make a user namespace: {error.strerror}") from error
