"""A container as `docker container inspect` shows it, as values for JSON, as far as it means something here.

Left out is what an engine does and this does not: networks, ports, limits, restarts. Reads only.
"""

from __future__ import annotations

from typing import Any

from unionfs.container import volumes
from unionfs.container.init_layer import HOSTNAME, HOSTS, RESOLV_CONF
from unionfs.container.process import parted
from unionfs.container.record import Container
from unionfs.container.spec import Mount
from unionfs.errors import ImageError
from unionfs.image import find
from unionfs.image import inspect as image_inspect
from unionfs.image.model import RuntimeConfig


def container(found: Container) -> dict[str, Any]:
    """What is known of a container. Raises ContainerError where a layer of it is gone."""
    record, process, state = found.record, found.record.process, found.state()
    binds = [mount for mount in process.mounts if mount.kind != "tmpfs" and not mount.anonymous]
    tmpfs = [mount for mount in process.mounts if mount.kind == "tmpfs"]
    return {
        "Id": found.id,
        "Created": record.created,
        "Path": process.args[0],
        "Args": [*process.args[1:]],
        "State": {
            "Status": state.status,
            "Running": state.running,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": state.started or image_inspect.NEVER,
            "FinishedAt": state.finished or image_inspect.NEVER,
        },
        "Image": record.image_id,
        "ResolvConfPath": str(found.init / RESOLV_CONF),
        "HostnamePath": str(found.init / HOSTNAME),
        "HostsPath": str(found.init / HOSTS),
        "LogPath": str(found.output),
        "Name": f"/{found.name}",
        "Driver": image_inspect.DRIVER,
        "Platform": "linux",
        "HostConfig": {
            "Binds": [_bind(mount) for mount in binds] or None,
            "NetworkMode": "host",
            "AutoRemove": record.auto_remove,
            "ReadonlyRootfs": process.read_only,
            "Tmpfs": {mount.target: ",".join(mount.options) for mount in tmpfs},
            "Runtime": record.runtime or "pyunionfs",
        },
        "GraphDriver": {
            "Data": image_inspect.directories(found.lowers(), found.upper, found.work, found.merged),
            "Name": image_inspect.DRIVER,
        },
        "Mounts": [_mount(found, mount) for mount in process.mounts],
        "Config": image_inspect.CONFIG | _config(found),
    }


def _config(found: Container) -> dict[str, Any]:
    """The process in the fields of an image's config; the image's entrypoint is split from its arguments."""
    process = found.record.process
    image = _image_config(found)
    entrypoint, command = parted(process.args, image)
    return {
        "Hostname": process.hostname,
        "User": process.user,
        "AttachStdin": process.interactive,
        "Tty": process.tty,
        "OpenStdin": process.interactive,
        "Env": [*process.env],
        "Cmd": command or None,
        "Image": found.record.image,
        "Volumes": volumes.of_config(image.volumes, process.mounts) or None,
        "WorkingDir": process.cwd,
        "Entrypoint": entrypoint or None,
        "Labels": image.labels or {},
        **({"StopSignal": process.stop_signal} if process.stop_signal else {}),
    }


def _image_config(found: Container) -> RuntimeConfig:
    try:
        manifest = find.manifest_of(found.store, found.record.manifest)
        return find.config_of(found.store, manifest).config or RuntimeConfig()
    except ImageError:  # damaged: what the record says is shown all the same
        return RuntimeConfig()


def _bind(mount: Mount) -> str:
    mode = _mode(mount)
    return f"{mount.source}:{mount.target}" + (f":{mode}" if mode else "")


def _mode(mount: Mount) -> str:
    words = ["ro"] if mount.read_only else []
    return ",".join([*words, *(mount.options if mount.kind == "volume" else ())])


def _mount(found: Container, mount: Mount) -> dict[str, Any]:
    if mount.kind == "volume":
        return {
            "Type": "volume",
            "Name": mount.source,
            "Source": str(volumes.path_of(found.store, mount.source)),
            "Destination": mount.target,
            "Driver": "local",
            "Mode": _mode(mount),
            "RW": not mount.read_only,
            "Propagation": "",
        }
    return {
        "Type": mount.kind,
        **({"Source": mount.source} if mount.source else {}),
        "Destination": mount.target,
        "Mode": _mode(mount),
        "RW": not mount.read_only,
    }
