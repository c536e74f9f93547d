"""An ordinary user's commands on trees of images and containers: in a user namespace with the user's own ids.

There the user is root, with the ids of /etc/subuid beside: files of layers have the owners that they are to
have, as in `podman unshare`. A user with no further ids stays outside, and attributes say the owners.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from unionfs.errors import ContainerError
from unionfs.image import layer_record
from unionfs.image.layer_form import OVERRIDE_STAT
from unionfs.image.store import VARIABLE, default_root
from unionfs.linux import user_namespace

COMMANDS = frozenset(
    ("pull", "push", "load", "import", "export", "commit", "rmi", "prune", "df")
    + ("run", "create", "start", "diff", "rm")
)
"""Those that make, read or remove trees. exec and cp enter the namespace of the container instead."""


_UNPACKING = frozenset(("pull", "load", "import", "export", "commit"))
"""Those of them that unpack layers, in the form that the process can write."""


def enter(command: str, words: Sequence[str]) -> None:
    """Move this process there, if *command* is one of them, for a user with further ids.

    *words* are those of the command, which may name the store. Raises ContainerError.
    """
    maps = user_namespace.id_maps()
    if command not in COMMANDS or maps.single:
        return
    # A store that was made before the user got further ids stays as it is: all files have one owner.
    if command in _UNPACKING and layer_record.form_of(_named_store(words)) == OVERRIDE_STAT:
        return
    # The store is the user's, not root's.
    os.environ[VARIABLE] = str(default_root())
    try:
        user_namespace.enter(maps)
    except OSError as error:
        raise ContainerError(f"cannot make a user namespace: {error.strerror}") from error


def _named_store(words: Sequence[str]) -> Path:
    for number, word in enumerate(words):
        if word == "--store" and number + 1 < len(words):
            return Path(words[number + 1])
        if word.startswith("--store="):
            return Path(word.partition("=")[2])
    return default_root()
