"""The volumes of a store: made for a container, filled from its image, found and removed.

    volumes/NAME/volume.json    a Record
                 _data          what is mounted in containers
                 filling        what is on its way into a _data that was there, and empty

A volume appears and goes by one rename. The rules are Docker's (moby, create_unix.go and volumes_unix.go).
Its lock is the ingest entry `volume-NAME`: it is held by what makes, fills or removes the volume, and by what
makes a container that has it, until that can be seen. Several are taken in the order of their names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from unionfs.container.spec import Mount, ProcessSpec
from unionfs.container.state import now
from unionfs.container.tree_copy import copy_attributes
from unionfs.errors import ContainerError
from unionfs.image.model import decode, encode
from unionfs.image.store import Store, clear, remove_tree, sync_directory, sync_filesystem

Fill = Callable[[Sequence[tuple[str, Path]]], Collection[str]]
"""Copies what an image has at paths into empty directories; returns the paths at which it has something."""

NOCOPY = "nocopy"
_RECORD, _DATA, _FILLING = "volume.json", "_data", "filling"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""Docker's RestrictedNamePattern."""
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """volume.json."""

    name: str
    created: str
    """UTC, as image configs have it."""
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a store."""

    path: Path
    record: Record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def data(self) -> Path:
        """The directory that containers see."""
        return self.path / _DATA


def is_name(text: str) -> bool:
    """Whether a volume can have this name."""
    return _NAME.fullmatch(text) is not None


def planned(mounts: Iterable[Mount], image: Mapping[str, object] | None) -> tuple[Mount, ...]:
    """The mounts of a new container: what was asked for, and a volume for each of the image's that is left.

    Anonymous volumes get names; what is mounted at their targets goes before them. Outer targets come first.
    """
    given = [mount for mount in mounts if not mount.anonymous]
    covered = {mount.target for mount in given}
    asked = [mount.target for mount in mounts if mount.anonymous]
    paths = [_target(path) for path in image or ()]
    if "/" in paths:
        raise ContainerError("the image has a volume at /, where its root is")
    found = [
        Mount("volume", target, os.urandom(32).hex(), anonymous=True)
        for target in dict.fromkeys([*asked, *paths])
        if target not in covered
    ]
    return tuple(sorted([*given, *found], key=lambda mount: mount.target.count("/")))


def of_config(image: Mapping[str, object] | None, mounts: Iterable[Mount]) -> dict[str, object]:
    """Volumes of a container's config: the image's, and those that were asked for without a source."""
    known = {_target(path) for path in image or ()}
    asked = [mount.target for mount in mounts if mount.anonymous and mount.target not in known]
    return {**(image or {}), **{target: {} for target in asked}}


def _target(path: str) -> str:
    """A path of an image's config. Relative ones, which Docker takes, are below the root."""
    return os.path.normpath("/" + path.lstrip("/"))


def path_of(store: Store, name: str) -> Path:
    """The directory of a volume that containers see."""
    return store.volumes / name / _DATA


def named(mounts: Iterable[Mount]) -> dict[str, Mount]:
    """The volumes among mounts by their names, each by the first mount that has it."""
    found: dict[str, Mount] = {}
    for mount in mounts:
        if mount.kind == "volume":
            found.setdefault(mount.source, mount)
    return found


@contextmanager
def ready(store: Store, mounts: Iterable[Mount], fill: Fill, *, durable: bool) -> Iterator[None]:
    """Make the volumes of a new container that are missing, and fill the empty ones, as Docker does.

    The block makes the container known; if that fails, what was made goes again. The caller holds
    `Store.in_use`. Without *durable* anonymous ones are not on disk at the end.
    """
    with ExitStack() as locks:
        making = [
            _Making(store, mount, locks.enter_context(store.claim(f"volume-{name}")))
            for name, mount in sorted(named(mounts).items())
        ]
        try:
            wanted = [each for each in making if each.prepare()]
            has = fill([(each.mount.target, each.target) for each in wanted]) if wanted else ()
            filled = [each for each in wanted if each.mount.target in has]
            if making and (durable or not all(each.mount.anonymous for each in making)):
                sync_filesystem(store.volumes)
            for each in making:
                each.publish(filled=each in filled)
            yield
        except BaseException:
            for each in making:
                each.undo()
            raise


class _Making:
    """A volume that a new container has, while it gets its place."""

    def __init__(self, store: Store, mount: Mount, place: Path) -> None:
        self.mount = mount
        self._store = store
        self._place = place
        self._path = store.volumes / mount.source
        self._half = place / "volume"
        self._is_new = not self._path.exists()
        self.target = self._half / _DATA if self._is_new else place / _FILLING
        """Where the image's content goes."""

    def prepare(self) -> bool:
        """Make what is missing of it; whether it is to be filled."""
        clear(self._place)
        if self._is_new:
            self._half.mkdir()
            _make_directory(self.target)
            record = Record(self.mount.source, now(), self.mount.anonymous)
            with (self._half / _RECORD).open("wb") as file:
                file.write(encode(record))
                file.flush()
                os.fsync(file.fileno())
            return NOCOPY not in self.mount.options
        _finish(self._path)
        if NOCOPY in self.mount.options or any(os.scandir(self._path / _DATA)):
            return False
        _make_directory(self.target)
        return True

    def publish(self, *, filled: bool) -> None:
        """Let it appear, whole."""
        if self._is_new:
            os.rename(self._half, self._path)
            sync_directory(self._store.volumes)
        elif filled:
            os.rename(self.target, self._path / _FILLING)
            sync_directory(self._path)
            _finish(self._path)
        clear(self._place)

    def undo(self) -> None:
        """The container was not made: what it alone would have had goes."""
        clear(self._place)
        if self._is_new and self._path.exists():
            _remove(self._path, self._place)


def _make_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


def _finish(path: Path) -> None:
    """Bring into _data what was on its way there. The caller has the volume's lock.

    By renames one by one: a container may have it mounted, so that the directory must stay.
    """
    filling, data = path / _FILLING, path / _DATA
    if not filling.exists():
        return
    for name in os.listdir(filling):
        if not os.path.lexists(data / name):
            os.rename(filling / name, data / name)
    source = os.open(filling, _OPEN_DIR)
    target = os.open(data, _OPEN_DIR)
    try:
        copy_attributes(source, target, keep_owners=True)
        os.fsync(target)
    finally:
        os.close(source)
        os.close(target)
    remove_tree(filling)


def as_binds(store: Store, process: ProcessSpec) -> ProcessSpec:
    """The process with its volumes as bind mounts. Raises ContainerError where one is not there any more."""
    found = []
    for mount in process.mounts:
        if mount.kind == "volume":
            volume = find(store, mount.source)
            if volume is None:
                raise ContainerError(
                    f"volume {mount.source}, to be mounted at {mount.target}, is not in the store any more"
                )
            if (volume.path / _FILLING).exists():  # what did that was killed
                with store.claim(f"volume-{mount.source}"):
                    _finish(volume.path)
            mount = Mount("bind", mount.target, str(volume.data), read_only=mount.read_only)
        found.append(mount)
    return msgspec.structs.replace(process, mounts=tuple(found))


def find(store: Store, name: str) -> Volume | None:
    """The volume of that name."""
    path = store.volumes / name
    if not is_name(name) or not (path / _DATA).is_dir():
        return None
    try:
        return Volume(path, decode((path / _RECORD).read_bytes(), Record, str(path / _RECORD)))
    except FileNotFoundError:  # removed meanwhile; or made by hand, and then none that goes by itself
        return Volume(path, Record(name, "")) if (path / _DATA).is_dir() else None


def volumes(store: Store) -> list[Volume]:
    """All volumes, by name."""
    found = (find(store, name) for name in sorted(os.listdir(store.volumes)))
    return [volume for volume in found if volume is not None]


def remove(store: Store, name: str, in_use: Callable[[], Collection[str]]) -> bool:
    """Remove a volume unless *in_use* names it, which is asked when no new container can have it."""
    path = store.volumes / name
    with store.claim(f"volume-{name}") as place:
        clear(place)
        if not path.exists() or name in in_use():
            return False
        _remove(path, place)
    return True


def _remove(path: Path, place: Path) -> None:
    os.rename(path, place / "removed")
    sync_directory(path.parent)
    remove_tree(place / "removed")
