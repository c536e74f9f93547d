"""What a bundle is made of: a container, or an image that gets directories of its own.

Mounts only for a look at the tables of users in the root, for config.json has numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from unionfs.container import init_layer, volumes
from unionfs.container.bundle import Ids, document
from unionfs.container.inside import stream
from unionfs.container.process import Wishes, process_of
from unionfs.container.record import Container
from unionfs.container.root_work import Work, stream_in
from unionfs.container.runtime import find_ids, host_files, limits_devices, runtime_maps
from unionfs.container.spec import ProcessSpec, UnionSpec
from unionfs.errors import ContainerError, NotFoundError
from unionfs.image import find
from unionfs.image.layer_record import layers_of
from unionfs.image.lowers import hold, release, tree_paths
from unionfs.image.store import Store
from unionfs.options.lists import join_lowers

ROOT = "rootfs"


@dataclass(frozen=True, slots=True)
class BundleRoot:
    """A bundle: its config.json, what the runtime may call the container, and how the root is mounted."""

    config: dict[str, Any]
    name: str
    mount_words: Sequence[str]
    """What follows `pyunionfs mount`, up to the mountpoint."""


def of_container(container: Container, place: Path) -> BundleRoot:
    """The bundle of a container in a directory that is made. Raises ContainerError."""
    record = container.record
    ids = _look_up(record.process.user, lambda work: stream(container, "look into", work, "out"))
    _make(place, ROOT)
    process = volumes.as_binds(container.store, record.process)
    config = _document(process, ids, str(container.init), container.id)
    directories = [str(container.upper), str(container.work)]
    try:
        is_there = find.resolve(container.store, record.image_id).manifest.digest == record.manifest.digest
    except NotFoundError:
        is_there = False
    if is_there:
        words = [*_image_words(container.store, record.image_id), str(container.init), *directories]
    else:  # its layers are in the store as long as the container is
        words = [join_lowers(map(str, container.lowers())), *directories]
    return BundleRoot(config, container.name, words)


def of_image(store: Store, text: str, place: Path) -> BundleRoot:
    """The bundle of an image with its own command. Raises NotFoundError, ContainerError."""
    with store.in_use():
        image = find.resolve(store, text)
        manifest = find.manifest_of(store, image.manifest)
        config = find.config_of(store, manifest)
        layers = layers_of(store, config)
        lowers = hold(tree_paths(layers))
    try:
        name = re.sub("[^A-Za-z0-9_.-]", "-", place.name)
        process = process_of(config.config, Wishes(hostname=name[:63]), text)
        _make(place, ROOT, "init", "upper", "work")
        init, upper, work = (place / each for each in ("init", "upper", "work"))
        init_layer.make(init, upper, tree_paths(layers), process.hostname)
        union = UnionSpec(
            (str(init), *lowers.paths),
            str(upper),
            str(work),
            str(place / ROOT),
            lowers.override_stat,
            lowers.held,
        )
        ids = _look_up(process.user, lambda work: stream_in(union, work, "out"))
    finally:
        release(lowers)
    words = [*_image_words(store, manifest.config.digest), *map(str, (init, upper, work))]
    return BundleRoot(_document(process, ids, str(init), name), name, words)


def _document(process: ProcessSpec, ids: Ids, init: str, name: str) -> dict[str, Any]:
    return document(
        process,
        ids,
        ROOT,
        host_files(init),
        runtime_maps(),
        f"/pyunionfs/{name}",
        limits_devices=limits_devices(),
    )


def _image_words(store: Store, digest: str) -> list[str]:
    return ["--store", str(store.root), "--image", digest.partition(":")[2]]


def _look_up(user: str, opened: Callable[[Work], AbstractContextManager[IO[bytes]]]) -> Ids:
    """The user's ids, by a look into the root."""

    def work(out: IO[bytes]) -> None:
        out.write(msgspec.json.encode(find_ids(user)))

    with opened(work) as pipe:
        answer = pipe.read()
    return msgspec.json.decode(answer, type=Ids)


def _make(place: Path, *names: str) -> None:
    try:
        for name in names:
            (place / name).mkdir(parents=True)
    except OSError as error:
        raise ContainerError(f"cannot make the bundle {place}: {error.strerror}") from error
