"""What the launcher is to do, as plain data that marshal carries: the types of it, for type checkers alone.

The launcher (`launch.py`) imports this in annotations only: it must be quick to load.
"""

from __future__ import annotations

from typing import TypedDict, final


class Volume(TypedDict):
    """`spec.Mount`."""

    kind: str
    target: str
    source: str
    read_only: bool
    options: list[str]


class Serve(TypedDict):
    """The union of a container; see `spec.UnionSpec`."""

    lowers: tuple[str, ...]
    override_stat: bool
    words: list[str]
    """The mount options, upper and work among them."""
    merged: str
    name: str
    """What the mount table shows as its source."""


class Process(TypedDict):
    """What is common to a container's first process and what joins it; see `spec.ProcessSpec`."""

    args: list[str]
    env: dict[str, str]
    """Without HOME, unless that was given."""
    cwd: str
    user: str
    tty: bool
    interactive: bool


@final
class Start(TypedDict):
    """A new container."""

    process: Process
    root: str
    """The mountpoint of the union; a plain directory with *bind_root*."""
    bind_root: bool
    volumes: list[Volume]
    files: list[tuple[str, str]]
    """A file of the host, and its path in the container."""
    hostname: str
    read_only: bool
    init: bool


@final
class Join(TypedDict):
    """A further process in a container that runs."""

    process: Process
    first: int
    """The number of a pidfd of its first process."""
    pid: int
    """The same process by its number."""
