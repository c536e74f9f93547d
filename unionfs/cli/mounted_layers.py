"""The layers of a mounted union, from its daemon or from the mount table, for commands that read layers.

Never accesses the mount, which may hang, nor a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from unionfs.control import status_socket
from unionfs.errors import MountError
from unionfs.linux import mount
from unionfs.linux.mount import MountPoint
from unionfs.options.lists import split_lowers
from unionfs.transport.mount import FSTYPE


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a union, by absolute paths, lowers top first. `lowers` is None if they are not known.

    `image` is the image that the mount has named, `work` the work directory, where there are such.
    """

    upper: str
    lowers: tuple[str, ...] | None
    data_lowers: tuple[str, ...] = ()
    userxattr: bool = False
    merged: str | None = None
    work: str | None = None
    image: str | None = None


def layers_of_mount(path: str) -> Layers | None:
    """The layers of the union that is mounted at *path* (`options.resolve_mountpoint`); None if none is.

    Raises MountError for one without an upper, or whose layers cannot be found out.
    """
    entry = mount.mount_at(path)
    if entry is None:
        return None
    if entry.fstype == "overlay":
        return _of_overlayfs(entry)
    for status in status_socket.list_mounts():
        if status["mountpoint"] != path or status["state"] == "detached":
            continue
        if status["state"] != "serving":
            raise MountError(
                f"cannot find out the layers of {path}: its daemon does not respond (`pyunionfs status` has"
                " the reason); give the upper directory instead"
            )
        if status["upper"] is None:
            raise _no_upper(path)
        userxattr = "userxattr" in status["options"]
        lowers, data = tuple(status["lowers"]), tuple(status["data_lowers"])
        named = [word.removeprefix("image=") for word in status["options"] if word.startswith("image=")]
        return Layers(
            status["upper"],
            lowers,
            data,
            userxattr=userxattr,
            merged=path,
            work=status["work"],
            image=named[0] if named else None,
        )
    return None


def directories_in_use() -> list[str]:
    """The layers of all mounts of this program whose daemons reply."""
    found: list[str] = []
    for status in status_socket.list_mounts():
        if status["state"] != "unreachable":
            found += status["lowers"] + status["data_lowers"]
    return found


def refuse_inside(path: str) -> None:
    """Raise MountError for a directory inside a mounted union: it is no layer.

    Except in a union that is the root directory, of a container, where every directory is inside.
    """
    above = [entry for entry in mount.mount_table() if path.startswith(entry.path.rstrip("/") + "/")]
    around = max(reversed(above), key=lambda entry: len(entry.path), default=None)
    if around is not None and around.path != "/" and around.fstype in ("overlay", FSTYPE):
        raise MountError(
            f"{path} is inside the union mounted at {around.path}: give that mountpoint, or an upper"
            " directory"
        )


def _of_overlayfs(entry: MountPoint) -> Layers:
    """The layers of a mount of kernel overlayfs, from the mount table."""
    upper = entry.super_option("upperdir")
    if upper is None:
        raise _no_upper(entry.path)
    lowers: list[str] = []
    data: list[str] = []
    for option in entry.super_options:
        name, _, value = option.partition("=")
        if name == "lowerdir":
            more, more_data = split_lowers(value)
            lowers += more
            data += more_data
        elif name == "lowerdir+":
            lowers.append(value)
        elif name == "datadir+":
            data.append(value)
    relative = [path for path in (upper, *lowers, *data) if not path.startswith("/")]
    if relative or not lowers:
        raise MountError(
            f"cannot find out the layers of {entry.path}: the mount table has"
            f" {f'the relative path {relative[0]}' if relative else 'no lowerdir'}; give --lowers"
            " LOWER[:LOWER...] and the upper directory instead"
        )
    userxattr = "userxattr" in entry.super_options
    work = entry.super_option("workdir")
    return Layers(upper, tuple(lowers), tuple(data), userxattr=userxattr, merged=entry.path, work=work)


def _no_upper(path: str) -> MountError:
    return MountError(
        f"{path} is mounted without an upper layer, so it has no changes: give a mount that has one"
    )
