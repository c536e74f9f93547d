"""An image as `docker image inspect` shows it, as values for JSON. Reads only.

The fields and their order are the Engine API's (ImageInspect), with the layers as overlay2 has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unionfs.errors import NotFoundError
from unionfs.image import blobs, find, index, summary
from unionfs.image.digest import Digest
from unionfs.image.index import Image
from unionfs.image.layer_record import Layer, folder_of, layers_of
from unionfs.image.model import Config, decode
from unionfs.image.store import Store

DRIVER = "overlay2"
"""The format of the layers, by the name that Docker's driver of that format has."""

NEVER = "0001-01-01T00:00:00Z"
"""How Go writes a time that is not set."""

CONFIG: dict[str, object] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
"""The fields that Docker always shows, and what they are where an image says nothing."""


def image(store: Store, found: Image) -> dict[str, Any]:
    """What is known of an image. Raises ImageError where its documents cannot be read."""
    manifest = find.manifest_of(store, found.manifest)
    config = find.config_of(store, manifest)
    what = f"config {manifest.config.digest}"
    document = decode(blobs.read_small(store, manifest.config, what), dict[str, Any], what)
    history = config.history or []
    return {
        "Id": manifest.config.digest,
        "RepoTags": [each.familiar for each in found.tags],
        "RepoDigests": [each.familiar for each in found.repo_digests],
        "Parent": _parent(store, found),
        "Comment": document.get("comment") or (history[-1].comment if history else None) or "",
        "Created": config.created or NEVER,
        "DockerVersion": document.get("docker_version") or "",
        "Author": config.author or "",
        "Config": CONFIG | (document.get("config") or {}),
        "Architecture": config.architecture,
        **({"Variant": config.variant} if config.variant else {}),
        "Os": config.os,
        "Size": summary.size_of(store, manifest, config),
        "GraphDriver": {"Data": _directories(store, config), "Name": DRIVER},
        "RootFS": {"Type": config.rootfs.type, "Layers": [*config.rootfs.diff_ids]},
        "Metadata": {"LastTagTime": found.tagged or NEVER},
    }


def directories(lowers: Sequence[Path], upper: Path, work: Path, merged: Path) -> dict[str, str]:
    """GraphDriver.Data; *lowers* topmost first. Without any there is no LowerDir, as with overlay2."""
    lower = {"LowerDir": ":".join(map(str, lowers))} if lowers else {}
    return {**lower, "MergedDir": str(merged), "UpperDir": str(upper), "WorkDir": str(work)}


def _directories(store: Store, config: Config) -> dict[str, str] | None:
    """The topmost layer is shown as the upper, though nothing writes it; None where no layer is unpacked."""
    try:
        layers: list[Layer] = layers_of(store, config)
    except NotFoundError:
        return None
    if not layers:
        return None
    top = folder_of(store, layers[-1].chain)
    below = [layer.path for layer in reversed(layers[:-1])]
    return directories(below, layers[-1].path, top / "work", top / "merged")


def _parent(store: Store, found: Image) -> str:
    """The id of the image on which this one was committed here, as long as the store has that.

    As in Docker, where it is empty for images that were pulled or imported, and for those that were loaded
    without the image that they were committed on.
    """
    if found.parent is None:
        return ""
    return found.parent if find.by_id(store, index.images(store), Digest(found.parent).hex) else ""
