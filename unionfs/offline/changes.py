"""What a union holds that its lowers do not: `changes` of an upper, with its lowers or by its marks alone.

Takes as long as there are changes, however large the lowers are. Writes nothing and takes no lock: the union
may be mounted meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from unionfs.errors import MountError
from unionfs.linux import process, xattr
from unionfs.offline import by_lowers, by_marks
from unionfs.offline.change import Change, Problem
from unionfs.offline.layer_view import OVERRIDE_STAT, open_view
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.format import Format
from unionfs.overlay.layer import DirFds, open_upper_to_look
from unionfs.overlay.owners.setup import owners_to_look

_OPEN_DIRECTORIES = 256

_TRUSTED = "trusted.overlay."
_USER = "user.overlay."


def changes(
    upper: str,
    lowers: Sequence[str] | None = None,
    data_lowers: Sequence[str] = (),
    *,
    userxattr: bool | None = None,
) -> Iterator[Change | Problem]:
    """Every change, in no order, and a `Problem` for each path that could not be read.

    With *lowers* (absolute paths, top first) each change is what a comparison of the whole trees would find;
    without, it is what upper's marks say. *userxattr* as the mount option; None: `uses_userxattr` decides.
    Raises MountError where a layer cannot be opened.
    """
    check_layer("upper", upper)
    for path in [*(lowers or ()), *data_lowers]:
        check_layer("lower", path)
    if userxattr is None:
        userxattr = uses_userxattr(upper)
    if lowers is not None:
        with open_view(upper, lowers, data_lowers, userxattr=userxattr) as view:
            yield from by_lowers.changes(view)
        return
    dirfds = DirFds(_OPEN_DIRECTORIES)
    layer = open_upper_to_look(os.path.realpath(upper), dirfds)
    try:
        owners_to_look(UnionConfig((), userxattr=userxattr, owners=OVERRIDE_STAT), [layer])
        yield from by_marks.changes(layer, Format(userxattr))
    finally:
        dirfds.close_all()
        layer.close()


def uses_userxattr(upper: str) -> bool:
    """Whether the marks of an upper are `user.overlay.*` attributes.

    Decided by its root, then by the objects in there; overlayfs marks the root when it copies up. Where
    nothing is marked (and then little can be), it is so for users who may not use `trusted.*`. Both kinds
    together are a union's marks and a user's own attributes of the other kind: only `trusted.*` needs a
    privilege.
    """
    if not process.may_use_trusted_xattrs():
        return True
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for names in ([b"."], map(os.fsencode, os.listdir(fd))):
            marks = [mark for name in names for mark in _attributes(fd, name)]
            if any(mark.startswith(_TRUSTED) for mark in marks):
                return False
            if any(mark.startswith(_USER) for mark in marks):
                return True
    finally:
        os.close(fd)
    return False


def _attributes(dirfd: int, name: bytes) -> list[str]:
    try:
        return xattr.list_at(dirfd, name)
    except OSError:  # gone meanwhile, or a filesystem without attributes
        return []


def check_layer(kind: str, path: str) -> None:
    """Raise MountError unless it is a directory."""
    if not os.path.isdir(path):
        what = "is not a directory" if os.path.lexists(path) else "does not exist"
        raise MountError(f"{kind} {path} {what}: give a directory that is a layer of a union")
