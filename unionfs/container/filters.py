"""Which containers a list shows: the filters of `docker ps`. Reads only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from unionfs.container import record
from unionfs.container.record import Container
from unionfs.container.state import State
from unionfs.errors import OptionError
from unionfs.image import find as images
from unionfs.image.model import chain_ids
from unionfs.image.store import Store

Filter = Callable[[Container, State], bool]

KEYS = ("ancestor", "before", "exited", "id", "name", "since", "status")
STATUSES = ("created", "exited", "running")


def filters(store: Store, wanted: Sequence[str]) -> list[Filter]:
    """`KEY=VALUE`s. Values of one key are alternatives, and each key must hold, as in Docker.

    Raises OptionError for an unknown key or a malformed value, ContainerError and NotFoundError for a
    container or an image that is not there.
    """
    made: dict[str, list[Filter]] = {}
    for each in wanted:
        key, equals, value = each.partition("=")
        if key not in KEYS or not equals:
            raise OptionError(f"--filter {each}: write KEY=VALUE; the keys are {', '.join(KEYS)}")
        made.setdefault(key, []).append(_filter(store, key, value))
    return [_any(alternatives) for alternatives in made.values()]


def _any(alternatives: Sequence[Filter]) -> Filter:
    return lambda container, state: any(each(container, state) for each in alternatives)


def _filter(store: Store, key: str, value: str) -> Filter:
    match key:
        case "ancestor":
            return _ancestor(store, value)
        case "before":
            created = record.find(store, value).record.created
            return lambda container, state: container.record.created < created
        case "since":
            created = record.find(store, value).record.created
            return lambda container, state: container.record.created > created
        case "exited":
            if not value.isdigit():
                raise OptionError(f"--filter exited={value}: an exit status is expected")
            return lambda container, state: state.status == "exited" and state.exit_code == int(value)
        case "status":
            if value not in STATUSES:
                raise OptionError(f"--filter status={value}: one of {', '.join(STATUSES)} is expected")
            return lambda container, state: state.status == value
        case "id":
            return lambda container, state: container.id.startswith(value)
        case _:
            try:
                pattern = re.compile(value.removeprefix("/"))
            except re.error as error:
                raise OptionError(f"--filter name={value}: malformed pattern: {error}") from None
            return lambda container, state: pattern.search(container.name) is not None


def _ancestor(store: Store, value: str) -> Filter:
    """Of that image or of one that is built on it: its layers are the lowest."""
    manifest = images.manifest_of(store, images.resolve(store, value).manifest)
    config = images.config_of(store, manifest)
    chains = [str(chain) for chain in chain_ids(config.diff_ids)]
    return lambda container, state: (
        container.record.image_id == manifest.config.digest
        or (bool(chains) and container.record.layers[: len(chains)] == chains)
    )
