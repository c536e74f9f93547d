"""The config.json of an OCI runtime bundle, as Docker and podman write it (runtime-spec 1.0.2).

What the container gets is what `run` gives it: the same namespaces, capabilities, masked paths and devices,
and the host's network. Data alone: nothing is mounted or started here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from unionfs.container.capabilities import DEFAULT
from unionfs.container.process import environment
from unionfs.container.rootfs import MASKED, READ_ONLY
from unionfs.container.spec import Mount, ProcessSpec
from unionfs.linux.user_namespace import IdMaps

VERSION = "1.0.2"
_NAMESPACES = ("mount", "uts", "ipc", "pid")
_APART = ("nosuid", "noexec", "nodev")

_MKNOD = "CAP_MKNOD"
_NODES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2))
_DEVICES = [
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *({"allow": True, "type": "c", "major": a, "minor": b, "access": "rwm"} for a, b in _NODES),
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
]
"""What the devices cgroup permits: nodes of any kind to be made, those of /dev and terminals to be used."""


class Ids(msgspec.Struct, frozen=True):
    """The user of the process, looked up in the container."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/root"


def document(
    process: ProcessSpec,
    ids: Ids,
    root: str,
    files: Mapping[str, str],
    maps: IdMaps | None,
    cgroup: str,
    *,
    limits_devices: bool = True,
) -> dict[str, Any]:
    """config.json for a container whose union is mounted at *root*.

    *files* are files of the host by their paths in the container. *maps* are those of the user namespace in
    which the runtime is to be started; None: by root, outside of one, where the container gets the *cgroup*,
    which decides about devices. Without *limits_devices* it does not, and the container can make none.
    """
    limited = maps is None and limits_devices
    capabilities = [name for name in DEFAULT if limited or name != _MKNOD]
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": process.tty,
            "user": {"uid": ids.uid, "gid": ids.gid, "additionalGids": list(ids.groups)},
            "args": list(process.args),
            "env": [f"{name}={value}" for name, value in environment(process, ids.home).items()],
            "cwd": process.cwd,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": True,
            "oomScoreAdj": 0,
        },
        "root": {"path": root, "readonly": process.read_only},
        "hostname": process.hostname,
        "mounts": [
            *_system_mounts(maps),
            *(_bind(source, target, "rprivate") for target, source in files.items()),
            *map(_mount, process.mounts),
        ],
        "linux": {
            "namespaces": [{"type": each} for each in _NAMESPACES],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
            **({"cgroupsPath": cgroup} if maps is None else {}),
            **({"resources": {"devices": _DEVICES}} if limited else {}),
        },
    }


def _system_mounts(maps: IdMaps | None) -> list[dict[str, Any]]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if maps is None or any(first <= 5 < first + count for first, _, count in maps.gids):
        terminals.append("gid=5")
    mounts = [
        _of("proc", "/proc", "proc", _APART),
        _of("tmpfs", "/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        _of("devpts", "/dev/pts", "devpts", terminals),
        _of("mqueue", "/dev/mqueue", "mqueue", _APART),
        _of("tmpfs", "/dev/shm", "shm", (*_APART, "mode=1777", "size=65536k")),
    ]
    if maps is None:
        mounts.append(_of("sysfs", "/sys", "sysfs", (*_APART, "ro")))
        mounts.append(_of("cgroup", "/sys/fs/cgroup", "cgroup", ("ro", *_APART)))
    else:
        # sysfs shows the network namespace, and may be mounted by its owner only.
        mounts.append(_bind("/sys", "/sys", "rslave", *_APART, "ro"))
    return mounts


def _of(kind: str, target: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _bind(source: str, target: str, *options: str) -> dict[str, Any]:
    return _of("bind", target, source, ("rbind", *options))


def _mount(mount: Mount) -> dict[str, Any]:
    if mount.kind == "bind":
        return _bind(mount.source, mount.target, "rprivate", "ro" if mount.read_only else "rw")
    # What is named later counts, as with mount(8).
    return _of("tmpfs", mount.target, "tmpfs", ("nosuid", "nodev", "noexec", *mount.options))
