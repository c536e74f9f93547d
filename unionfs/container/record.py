"""The containers of a store: made, listed, found and removed. Runs nothing, mounts nothing, prints nothing.

    containers/ID/container.json    a Record, which is never changed
                  state.json        a Run: the last start, and how it ended
                  diff work merged  the union: upper, work directory, mountpoint
                  init/diff         the init layer; ID-init leads to init, as Docker calls it

A container appears and goes by one rename. Locks, in this order: `Store.in_use`, an ingest entry's, a
container's own (`Container.lock`: what starts it, removes it or mounts it holds that, without waiting), those
of volumes (`volumes.py`), and that of the names.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from unionfs.container import init_layer, names, volumes
from unionfs.container.process import Wishes, process_of
from unionfs.container.spec import ProcessSpec, UnionSpec
from unionfs.container.state import Run, State, now
from unionfs.errors import ContainerError
from unionfs.image import find as images
from unionfs.image.digest import Digest
from unionfs.image.layer_record import Layer, layers_of
from unionfs.image.layer_record import find as find_layer
from unionfs.image.lowers import hold, release, tree_paths
from unionfs.image.model import Descriptor, decode, encode
from unionfs.image.store import Store, remove_tree, sync_directory

_RECORD = "container.json"
_STATE = "state.json"
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PAUSE = 0.02
_ID = re.compile(r"[0-9a-f]{64}")


class NoContainerError(ContainerError):
    """There is no such container."""


class Record(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """container.json."""

    id: str
    name: str
    created: str
    """UTC, as image configs have it."""
    image: str
    """As it was named."""
    image_id: str
    """The digest of the image's config, by which Docker knows it."""
    manifest: Descriptor
    layers: list[str]
    """The ChainIDs of its layers, from the lowest up. They are in use as long as this file is there."""
    process: ProcessSpec
    runtime: str = ""
    """The program that runs it (crun, runc); empty: this one."""
    auto_remove: bool = False
    """Whether it is removed when it has ended."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a store."""

    store: Store
    record: Record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def short(self) -> str:
        """The first twelve digits of the id."""
        return self.id[:12]

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.store.containers / self.id

    @property
    def upper(self) -> Path:
        return self.path / "diff"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def merged(self) -> Path:
        """The mountpoint, in the mount namespace of what runs in it."""
        return self.path / "merged"

    @property
    def output(self) -> Path:
        """The file with what it has printed in the background; there is none before."""
        return self.path / "output.log"

    @property
    def init(self) -> Path:
        """The root of the init layer."""
        return self.path / f"{self.id}-init" / "diff"

    def layers(self) -> list[Layer]:
        """The image's layers, from the lowest up. Raises ContainerError where one is not there any more."""
        found = []
        for chain in self.record.layers:
            layer = find_layer(self.store, Digest(chain))
            if layer is None:
                raise ContainerError(
                    f"container {self.name}: layer {chain} is not in the store any more: pull"
                    f" {self.record.image} again"
                )
            found.append(layer)
        return found

    def lowers(self) -> list[Path]:
        """The lowers of its union, topmost first: the init layer and the image's layers."""
        return [self.init, *tree_paths(self.layers())]

    def state(self) -> State:
        """What it is doing, by a look at its process."""
        place = self.path / _STATE
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            content = b""
        # Empty: the machine has crashed before it was on disk.
        return State.of(decode(content, Run, str(place)) if content else None)

    def note(self, run: Run) -> None:
        """Record a start, or how it ended."""
        if self.record.auto_remove:  # of no use after a crash of the machine
            beside = self.path / f"{_STATE}.new"
            beside.write_bytes(encode(run))
            beside.rename(self.path / _STATE)
        else:
            self.store.write(self.path / _STATE, encode(run))

    @contextmanager
    def lock(self, what: str, timeout: float = 0.0) -> Iterator[None]:
        """Have the container alone. Raises ContainerError where another process starts, runs or removes it.

        *what* is to be done, for the message: "start". It is waited for *timeout* seconds at most.
        """
        try:
            fd = os.open(self.path, _OPEN_DIR)
        except FileNotFoundError:
            raise _no_container(self.name) from None
        try:
            if not _locked(fd, timeout):
                why = "it is running" if self.state().running else "another command is at work on it"
                raise ContainerError(f"cannot {what} container {self.name}: {why}")
            if not self.path.exists():
                raise _no_container(self.name)
            yield
        finally:
            os.close(fd)


def create(
    store: Store,
    image: str,
    wishes: Wishes,
    *,
    name: str | None = None,
    runtime: str = "",
    auto_remove: bool = False,
) -> Container:
    """A new container of the image that a user means, and its volumes. Without a *name* one is made up.

    Raises NotFoundError where there is no such image, ContainerError where the name is taken or the image has
    no command. Nothing is left behind then.
    """
    if name is not None:
        _refuse_taken(store, names.check(name))
    identifier = os.urandom(32).hex()
    with store.in_use(), store.claim(f"container-{identifier}") as place:
        half = place / "container"
        try:
            record = _make(store, half, identifier, image, wishes)
            mounts = record.process.mounts

            def fill(wanted: Sequence[tuple[str, Path]]) -> Collection[str]:
                return _copy_from_image(Container(store, record), half, wanted)

            with volumes.ready(store, mounts, fill, durable=not auto_remove), _names_lock(store):
                if name is not None:
                    _refuse_taken(store, name)
                record = msgspec.structs.replace(
                    record,
                    name=name if name is not None else _invent(store),
                    runtime=runtime,
                    auto_remove=auto_remove,
                )
                _write_synced(half / _RECORD, encode(record))
                os.rename(half, store.containers / identifier)
        except BaseException:
            remove_tree(half)
            raise
        if not auto_remove:
            sync_directory(store.containers)
    return Container(store, record)


def _make(store: Store, half: Path, identifier: str, image: str, wishes: Wishes) -> Record:
    """The directories of a container, and its record, still without a name."""
    found = images.resolve(store, image)
    manifest = images.manifest_of(store, found.manifest)
    config = images.config_of(store, manifest)
    layers = layers_of(store, config)
    process = process_of(config.config, wishes, image)
    if not process.hostname:
        process = msgspec.structs.replace(process, hostname=identifier[:12])
    image_volumes = None if config.config is None else config.config.volumes
    process = msgspec.structs.replace(process, mounts=volumes.planned(process.mounts, image_volumes))
    for each in ("diff", "work", "merged", "init/diff"):
        (half / each).mkdir(parents=True)
    (half / f"{identifier}-init").symlink_to("init")
    init_layer.make(half / "init/diff", half / "diff", tree_paths(layers), process.hostname)
    return Record(
        id=identifier,
        name="",
        created=now(),
        image=image,
        image_id=manifest.config.digest,
        manifest=found.manifest,
        layers=[str(layer.chain) for layer in layers],
        process=process,
    )


def _copy_from_image(container: Container, half: Path, wanted: Sequence[tuple[str, Path]]) -> Collection[str]:
    """Copy what a container that has no place yet has at paths into directories (`volumes.Fill`)."""
    from unionfs.container import image_content  # few images have volumes, and this is slow to load

    init = half / container.init.relative_to(container.path)
    lowers = hold([init, *tree_paths(container.layers())])
    try:
        union = UnionSpec(lowers.paths, "", "", str(half / "merged"), lowers.override_stat, lowers.held)
        return image_content.copy_out(union, wanted)
    finally:
        release(lowers)


def containers(store: Store) -> list[Container]:
    """All containers, in the order in which they were made."""
    found = []
    for entry in os.scandir(store.containers):
        if _ID.fullmatch(entry.name) and (container := _read(store, entry.name)) is not None:
            found.append(container)
    return sorted(found, key=lambda container: (container.record.created, container.id))


def find(store: Store, text: str) -> Container:
    """The container with that id or name, or whose id begins so; Docker's order. Raises ContainerError."""
    if _ID.fullmatch(text) and (container := _read(store, text)) is not None:
        return container
    every = containers(store)
    for container in every:
        if container.name == text:
            return container
    begin = [container for container in every if text and container.id.startswith(text)]
    if len(begin) > 1:
        raise ContainerError(f"{text}: {len(begin)} containers have an id that begins so: give more of it")
    if not begin:
        raise _no_container(text)
    return begin[0]


def remove(container: Container, timeout: float = 0.0, *, with_volumes: bool = False) -> None:
    """Remove a container that does not run. Raises ContainerError where it does, or its upper is mounted.

    *with_volumes*: and those of its anonymous volumes that no other container has; one that is to be removed
    at its end always takes them along. That it is let go is waited for *timeout* seconds at most.
    """
    with container.store.claim(f"removed-{container.id}") as place, container.lock("remove", timeout):
        if container.state().running:
            raise ContainerError(
                f"cannot remove container {container.name}: it is running; end it, or use `rm -f`"
            )
        upper = os.open(container.upper, _OPEN_DIR)
        try:
            if not _locked(upper, timeout):
                raise ContainerError(f"cannot remove container {container.name}: its upper is mounted")
        finally:
            os.close(upper)
        os.rename(container.path, place / "container")
        sync_directory(container.store.containers)
        remove_tree(place / "container")
    if with_volumes or container.record.auto_remove:
        for name, mount in volumes.named(container.record.process.mounts).items():
            if mount.anonymous:
                volumes.remove(container.store, name, lambda: volumes_in_use(container.store))


def volumes_in_use(store: Store) -> set[str]:
    """The names of the volumes that containers have."""
    return {name for each in containers(store) for name in volumes.named(each.record.process.mounts)}


def _read(store: Store, identifier: str) -> Container | None:
    path = store.containers / identifier / _RECORD
    try:
        return Container(store, decode(path.read_bytes(), Record, str(path)))
    except FileNotFoundError:  # removed meanwhile
        return None


def _no_container(text: str) -> NoContainerError:
    return NoContainerError(f"there is no container {text[:200]}: `pyunionfs ps -a` lists those there are")


def _locked(fd: int, timeout: float) -> bool:
    """Whether the lock could be had in that time."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        else:
            return True


@contextmanager
def _names_lock(store: Store) -> Iterator[None]:
    """While a name is looked for and taken."""
    fd = os.open(store.containers, _OPEN_DIR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _refuse_taken(store: Store, name: str) -> None:
    for container in containers(store):
        if container.name == name:
            raise ContainerError(
                f"the name {name} is taken by container {container.short}: remove that, or use another name"
            )


def _invent(store: Store) -> str:
    taken = {container.name for container in containers(store)}
    name = names.invent()
    number = 0
    while name in taken:
        number += 1
        name = f"{names.invent()}{number}"
    return name


def _write_synced(path: Path, content: bytes) -> None:
    """fsync(2) has what was made before on disk, too, or a crash loses all of it: it has no name yet."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
