"""`pyunionfs bundle`: writes an OCI runtime bundle of a container or an image, and prints how to start it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from unionfs.cli import store_option
from unionfs.cli.parser import Parser
from unionfs.container import bundle_root, record
from unionfs.container.bundle_root import BundleRoot
from unionfs.container.runtime import runtime_maps
from unionfs.errors import OptionError


def parser() -> Parser:
    made = Parser(
        "bundle",
        "Write an OCI runtime bundle (runtime-spec 1.0.2) of a container, or of an image with its own"
        " command, into DIRECTORY, which is made or is empty, and print the commands that mount its root,"
        " start it and unmount it again.",
        "A container goes on with what it has changed, and must not run meanwhile; of an image all changes go"
        " into DIRECTORY. config.json gives it what `pyunionfs run` gives it: the network is the host's. An"
        " ordinary user's commands make a user namespace first. Any runtime of the specification can take the"
        " place of crun.",
        usage=("pyunionfs bundle [OPTION...] CONTAINER|IMAGE DIRECTORY",),
        examples=[
            ("pyunionfs bundle web /srv/bundle", "a container"),
            ("pyunionfs bundle debian:12 /srv/bundle | sh", "an image, which is started at once"),
        ],
    )
    store_option.add(made)
    made.add_argument("name", metavar="CONTAINER|IMAGE", help="a container by name or id, else an image")
    made.add_argument("directory", metavar="DIRECTORY", help="where the bundle is written")
    return made


def run(words: list[str]) -> int:
    given = parser().parse_args(words)
    store = store_option.opened(given)
    place = Path(given.directory).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise OptionError(f"{place} is no empty directory: give one that is, or that is not there")
    try:
        container = record.find(store, given.name)
    except record.NoContainerError:
        made = bundle_root.of_image(store, given.name, place)
    else:
        made = bundle_root.of_container(container, place)
    (place / "config.json").write_text(json.dumps(made.config, indent=2) + "\n")
    for line in _commands(made, place):
        print(line)
    return 0


def _commands(made: BundleRoot, place: Path) -> list[str]:
    """For a shell. An ordinary user's layers make sense in a user namespace, where the user is root."""
    root = str(place / bundle_root.ROOT)
    lines = [
        shlex.join(["pyunionfs", "mount", *made.mount_words, root]),
        shlex.join(["crun", "run", "--bundle", str(place), made.name]),
        shlex.join(["pyunionfs", "umount", root]),
    ]
    maps = runtime_maps()
    if maps is None:
        return lines
    # Root's places and cgroups are not this user's.
    own = shlex.join(["crun", "--root", str(place / "state"), "--cgroup-manager", "disabled"])
    lines[1] = own + lines[1].removeprefix("crun")
    if os.geteuid() == 0:  # the user namespace is there
        return lines
    unshare = ["unshare", "--map-root-user", "--mount", *([] if maps.single else ["--map-auto"])]
    return [shlex.join([*unshare, "sh", "-c", "; ".join(lines)])]
