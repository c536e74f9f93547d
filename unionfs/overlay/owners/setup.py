"""What decides, when a union opens, how its owners are shown and stored."""

from __future__ import annotations

import os
from dataclasses import replace

from unionfs.errors import MountError
from unionfs.overlay.config import OwnersConfig, UnionConfig
from unionfs.overlay.layer import Layer
from unionfs.overlay.owners import override_stat
from unionfs.overlay.owners.inodes import Owners
from unionfs.overlay.owners.override_stat import Override
from unionfs.overlay.owners.store import OwnerStore, SquashStore, XattrStore


def owners_of(config: UnionConfig, upper: Layer | None, lowers: list[Layer]) -> Owners | None:
    """How owners are shown and stored, if not as the layers' inodes have them; prepares the layers for it.

    Xattrs that hold owner and mode count only where they are expected: the owner of a file may set `user.*`
    ones, and could make it root's and setuid in a mount of root's that knows nothing of it.
    Raises MountError where upper cannot hold what `xattr_permissions` asks for.
    """
    layers = lowers if upper is None else [upper, *lowers]
    if config.uses_override_stat:
        for layer in layers:
            layer.stat_xattrs = override_stat.xattrs_of(layer.root_fd)
    owners = Owners(config, _store_for(config, upper, lowers), upper, lowers)
    if not owners.uses_xattrs and not config.owners.are_mapped:
        return None
    for layer in layers:
        layer.isolates_security = layer.stat_xattrs[:1] == (override_stat.CONTAINERS,)
        owners.show_in(layer)
    return owners


def owners_to_look(config: UnionConfig, layers: list[Layer]) -> Owners | None:
    """As `owners_of` where nothing is made or changed: only what `override_stat` xattrs say is shown."""
    if not config.uses_override_stat:
        return None
    # As lowers all of them, for a new upper of a mount would be given the xattr.
    return owners_of(replace(config, owners=OwnersConfig(xattr_permissions=2)), None, layers)


def _store_for(config: UnionConfig, upper: Layer | None, lowers: list[Layer]) -> OwnerStore:
    if upper is not None and (config.owners.xattr_permissions or upper.stat_xattrs):
        return _xattr_store(config.owners.xattr_permissions, upper, lowers)
    if config.owners.squash_uid is not None or config.owners.squash_gid is not None:
        return SquashStore()
    return OwnerStore()


def _xattr_store(kind: int, upper: Layer, lowers: list[Layer]) -> XattrStore:
    """Upper stays with the xattr that its root has. A new one begins with what its lowers' root says."""
    if upper.stat_xattrs:
        return XattrStore(upper.stat_xattrs[0])
    name = override_stat.PRIVILEGED if kind == 1 else override_stat.CONTAINERS
    upper.stat_xattrs = (name, *(other for other in override_stat.NAMES if other != name))
    below = [
        found
        for layer in lowers
        if layer.stat_xattrs
        and (found := override_stat.read(b"/proc/self/fd/%d" % layer.root_fd, layer.stat_xattrs)) is not None
    ]
    st = os.fstat(upper.root_fd)
    first = below[0] if below else Override.of(st, real=st.st_mode)
    try:
        os.setxattr(upper.root_fd, name, first.encode())
    except OSError as error:
        advice = "; xattr_permissions=2 needs no privilege" if kind == 1 else ""
        raise MountError(
            f"upper {upper.path} cannot hold the attribute {name} that xattr_permissions={kind} needs:"
            f" {error.strerror}{advice}"
        ) from error
    return XattrStore(name)
