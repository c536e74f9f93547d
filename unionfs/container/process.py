"""The process of a container, from the image's config and what was asked for. Looks at no file.

The rules are Docker's: moby daemon/create.go, `merge` and `verifyContainerSettings`, and
container/env.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from unionfs.container.spec import DEFAULT_PATH, Mount, ProcessSpec
from unionfs.errors import ContainerError
from unionfs.image.model import RuntimeConfig


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for beside the image. None and what is empty leave it to the image."""

    command: Sequence[str] = ()
    entrypoint: str | None = None
    """A program in place of the image's entrypoint; "": none. The image's command goes with that."""
    env: Sequence[str] = ()
    workdir: str = ""
    user: str = ""
    hostname: str = ""
    tty: bool = False
    interactive: bool = False
    read_only: bool = False
    init: bool = True
    mounts: Sequence[Mount] = ()


def process_of(image: RuntimeConfig | None, wishes: Wishes, name: str) -> ProcessSpec:
    """The process. Raises ContainerError where neither the image *name* nor the caller says what to run."""
    image = image or RuntimeConfig()
    entrypoint, command = list(image.entrypoint or ()), list(wishes.command)
    if wishes.entrypoint is not None:
        entrypoint = [wishes.entrypoint] if wishes.entrypoint else []
    elif not command:
        command = list(image.cmd or ())
    if not entrypoint and not command:
        raise ContainerError(f"image {name} has no command: give one after the image")
    return ProcessSpec(
        args=(*entrypoint, *command),
        env=merged_env(image.env or (), wishes.env),
        cwd=wishes.workdir or image.working_dir or "/",
        user=wishes.user or image.user or "",
        hostname=wishes.hostname or image.hostname or "",
        tty=wishes.tty,
        interactive=wishes.interactive,
        read_only=wishes.read_only,
        init=wishes.init,
        mounts=tuple(wishes.mounts),
        stop_signal=image.stop_signal or "",
    )


def parted(args: Sequence[str], image: RuntimeConfig | None) -> tuple[list[str], list[str]]:
    """Entrypoint and command, split by the image's entrypoint: with another one all is the command."""
    entrypoint = (image and image.entrypoint) or []
    begin = len(entrypoint) if list(args[: len(entrypoint)]) == entrypoint else 0
    return [*args[:begin]], [*args[begin:]]


def merged_env(*parts: Iterable[str]) -> tuple[str, ...]:
    """NAME=VALUE, each name once; the last value counts, in the place of the first."""
    found: dict[str, str] = {}
    for part in parts:
        for each in part:
            found[each.partition("=")[0]] = each
    return tuple(found.values())


def environment(spec: ProcessSpec, home: str | None = None) -> Mapping[str, str]:
    """What the process gets: PATH, HOSTNAME, TERM and HOME are Docker's where nothing else was said.

    Without *home*, which is looked up in the container, HOME is left out.
    """
    first = [DEFAULT_PATH, f"HOSTNAME={spec.hostname}", *(["TERM=xterm"] if spec.tty else [])]
    words = merged_env(first, spec.env)
    found = {
        name: value for name, equals, value in (word.partition("=") for word in words) if name and equals
    }
    if home is not None:
        found.setdefault("HOME", home)
    return found
