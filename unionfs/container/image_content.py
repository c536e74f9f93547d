"""What an image has at paths, copied into directories: the union of its layers is mounted for that.

So paths mean what they mean in a container, symlinks on the way among it, and owners are those that it sees.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from msgspec.structs import replace

from unionfs.container.root_work import stream_in
from unionfs.container.spec import UnionSpec
from unionfs.container.tree_copy import copy_directory
from unionfs.errors import ContainerError
from unionfs.linux import user_namespace

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def copy_out(union: UnionSpec, wanted: Sequence[tuple[str, Path]]) -> set[str]:
    """Fill empty directories with the content of these paths; returns the paths that there are.

    Where the union's user has a single id, all belongs to that. Raises ContainerError, naming the path,
    where something else than a directory is at one.
    """
    # Asked here: no /proc is in that root.
    maps = user_namespace.own_maps() if os.geteuid() == 0 else user_namespace.id_maps()
    keep_owners = maps is None or sum(count for _, _, count in maps.uids) > 1
    if not keep_owners:
        # Else what belongs to an id that does not exist there would be closed to its root.
        union = replace(union, options=(*union.options, "squash_to_root"))
    targets = [(path, os.open(directory, _OPEN_DIR)) for path, directory in wanted]

    def work(out: IO[bytes]) -> None:
        for path, target in targets:
            try:
                source = os.open(path, _OPEN_DIR)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.ENOTDIR:
                    raise
                raise ContainerError(
                    f"cannot mount a volume at {path}: the image has no directory there, but a file"
                ) from None
            copy_directory(source, target, keep_owners=keep_owners)
            os.close(source)
            out.write(os.fsencode(path) + b"\0")

    try:
        with stream_in(union, work, "out") as pipe:
            found = pipe.read()
    finally:
        for _, target in targets:
            os.close(target)
    return {os.fsdecode(path) for path in found.split(b"\0")[:-1]}
