"""Overlaps of a new mount with other unions: a mountpoint that is a layer, layers that another one writes.

Considers the mounts of this mount namespace only, because paths have no meaning elsewhere. Ends and changes
none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from unionfs.control.status_socket import device_of
from unionfs.control.union_layers import Union, query_layers
from unionfs.errors import MountError
from unionfs.linux.mount import MountPoint, mount_table
from unionfs.options.mount_options import MountOptions
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.foreign import foreign_directories
from unionfs.overlay.place import Place, place_by_table, place_of, within

_WARN_TIMEOUT = 0.05
"""Seconds that other daemons have to reply: about what this daemon needs to start, which waits no longer."""

_TIMEOUT = 1.0
"""Seconds that they have where the mount may be refused because of their replies."""


def refuse_shared_layers(config: UnionConfig) -> None:
    """Raise MountError for a layer that is, or lies in, upper or work of another union, with an index.

    As kernel overlayfs (ovl_check_layer(), ovl_report_in_use(): EBUSY): an index refers to objects by file
    handles, which another union may not change.
    """
    if not config.index or config.upper is None:
        return
    table = mount_table()
    for text in _overlaps(config, _unions(table, _TIMEOUT), table):
        raise MountError(
            f"{text}: with index=on no other union may write a layer; unmount that one, use other"
            " directories, or mount with index=off"
        )


def warn_of_overlaps(options: MountOptions, own: int | None = None) -> None:
    """Warn on standard error of overlaps that overlayfs accepts, too, but a user may not have meant.

    *own* is the process of the new mount itself, which may be ready before the others have replied.
    """
    table = mount_table()
    unions = [each for each in _unions(table, _WARN_TIMEOUT) if each.pid != own]
    config = options.config
    for text in _on_mountpoint(options.mountpoint, unions):
        print(f"pyunionfs: {text}", file=sys.stderr)
    if config.any_work or (config.index and config.upper is not None):
        return  # fuse-overlayfs prints no such warning, and with an index it was refused
    for text in _overlaps(config, unions, table):
        print(f"pyunionfs: {text}: changes made there may not be visible here", file=sys.stderr)


def _unions(table: list[MountPoint], seconds: float) -> list[Union]:
    """Those that are mounted in this mount namespace."""
    return query_layers(set(map(device_of, table)), seconds)


def _on_mountpoint(mountpoint: str, unions: list[Union]) -> Iterator[str]:
    """Warnings about a mountpoint that is a layer: the other union goes on using what the mount hides."""
    for _, _, layers in unions:
        kinds = [("upper", layers.upper), ("work", layers.work)]
        for kind, path in [*kinds, *(("a lower", lower) for lower in layers.lowers)]:
            if mountpoint == path:
                hides = "which keeps using what this mount hides"
                yield f"{mountpoint} is {kind} of the union on {layers.mountpoint}, {hides}"


def _overlaps(config: UnionConfig, unions: list[Union], table: list[MountPoint]) -> Iterator[str]:
    """A text for each layer that is, or lies in, a directory that another union writes."""
    written = list(_writable_layers(unions, table))
    if not written:
        return
    by_id = {entry.mount_id: entry for entry in table}
    for kind, path in config.directories():
        mine = place_of(path, by_id)
        for place, what in written:
            if within(mine, place):
                yield f"{kind} {path} {'is' if mine == place else 'lies in'} {what}"
                break


def _writable_layers(unions: list[Union], table: list[MountPoint]) -> Iterator[tuple[Place, str]]:
    """Upper and work of every other union, with a description."""
    for _, _, layers in unions:
        for kind, path in (("upper", layers.upper), ("work", layers.work)):
            # By the mount table alone: a stat of another union's layer may hang.
            if path is not None and (place := place_by_table(path, table)) is not None:
                yield place, f"the {kind} of the union on {layers.mountpoint}"
    by_id = {entry.mount_id: entry for entry in table}
    for kind, program, path, where in foreign_directories():
        try:
            yield (
                place_of(os.path.realpath(path, strict=True), by_id),
                f"the {kind} of {program} mounted at {where}",
            )
        except OSError:
            continue  # it is gone, or not accessible
