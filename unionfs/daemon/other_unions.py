"""What a new mount has to do with other unions: where it is mounted, and layers that another one writes.

Looks at the mounts of this mount namespace only, for elsewhere a path says nothing. Ends and changes none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from unionfs.control import status_socket
from unionfs.control.status_socket import Running
from unionfs.errors import MountError
from unionfs.linux.mount import MountPoint, mount_table
from unionfs.options.mount_options import MountOptions
from unionfs.overlay import check
from unionfs.overlay.check import Place
from unionfs.overlay.config import UnionConfig

_REMARK = 0.05
"""Seconds that other daemons have to answer, about what the daemon needs to start: nothing waits longer."""

_PATIENCE = 1.0
"""Seconds where a mount is refused by what they answer."""


def refuse_shared_layers(config: UnionConfig) -> None:
    """Raise MountError for a layer that is, or lies in, upper or work of another union, with an index.

    As kernel overlayfs (ovl_check_layer(), ovl_report_in_use(): EBUSY): an index leads to objects by handles
    and must have them for itself.
    """
    if not config.index or config.upper is None:
        return
    for text in _shared(config, status_socket.running(seconds=_PATIENCE)):
        raise MountError(
            f"{text}: with index=on no other union may write a layer; unmount that one, use other"
            " directories, or mount with index=off"
        )


def remark(options: MountOptions) -> None:
    """Say on standard error what overlayfs takes, too, but a user may not have meant."""
    daemons = status_socket.running(seconds=_REMARK)
    config = options.config
    for text in _on_mountpoint(options.mountpoint, daemons):
        print(f"pyunionfs: {text}", file=sys.stderr)
    if config.any_work or (config.index and config.upper is not None):
        return  # fuse-overlayfs says nothing of it, and with an index it was refused
    for text in _shared(config, daemons):
        print(f"pyunionfs: {text}: what is changed there may be shown wrong here", file=sys.stderr)


def _on_mountpoint(mountpoint: str, daemons: list[Running]) -> Iterator[str]:
    """What to say of a mountpoint that is a layer: the other union goes on with what it really holds."""
    for each in daemons:
        if each.status is None:
            continue
        kinds = [("upper", [each.status["upper"]]), ("work", [each.status["work"]])]
        for kind, paths in [*kinds, ("a lower", [*each.status["lowers"], *each.status["data_lowers"]])]:
            if mountpoint in paths:
                where = each.status["mountpoint"]
                hides = "which goes on with what this mount hides"
                yield f"{mountpoint} is {kind} of the union on {where}, {hides}"


def _shared(config: UnionConfig, daemons: list[Running]) -> Iterator[str]:
    """A text for each layer that is, or lies in, what another union writes."""
    table = mount_table()
    written = list(_written(daemons, table))
    if not written:
        return
    by_id = {entry.mount_id: entry for entry in table}
    for kind, path in check.directories(config):
        mine = check.place_of(path, by_id)
        for place, what in written:
            if check.within(mine, place):
                yield f"{kind} {path} {'is' if mine == place else 'lies in'} {what}"
                break


def _written(daemons: list[Running], table: list[MountPoint]) -> Iterator[tuple[Place, str]]:
    """Upper and work of every other union, and what they are."""
    devices = {f"{entry.device[0]}:{entry.device[1]}" for entry in table}
    for each in daemons:
        if each.status is None or each.device not in devices:
            continue
        for kind, path in (("upper", each.status["upper"]), ("work", each.status["work"])):
            # By the mount table alone: a layer of another union may hang.
            if path is not None and (place := check.place_by_table(path, table)) is not None:
                yield place, f"the {kind} of the union on {each.status['mountpoint']}"
    by_id = {entry.mount_id: entry for entry in table}
    for kind, program, path, where in check.foreign_directories():
        try:
            yield (
                check.place_of(os.path.realpath(path, strict=True), by_id),
                f"the {kind} of {program} mounted at {where}",
            )
        except OSError:
            continue  # it is gone, or not for us to see
