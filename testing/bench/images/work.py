"""What is timed: each work by each program that can do it. Preparing is not timed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testing.bench.images.programs import IMAGE, Action, Programs
from testing.images.entries import file, symlink
from testing.images.layout import image, write_layout
from testing.images.like_debian import CONFIG, debian_like
from testing.images.registries import Running

CHANGED = 500
_PODMAN_RUN = ("run", "--rm", "--network=host", "--pull=never", "--cgroups=disabled")


@dataclass(frozen=True)
class Work:
    """*prepare* is called before each timing, with the program's name; *ways* are the programs."""

    name: str
    what: str
    ways: dict[str, Action]
    prepare: Callable[[str], None]
    goals: dict[str, float]
    """The most that pyunionfs may take, as a ratio to a program."""


class Source:
    """The image that all have: a layout, the same as an archive, and in a registry."""

    def __init__(self, base: Path, programs: Programs, registry: Running, files: int, size: int) -> None:
        self.layout = base / "layout"
        self.archive = base / "archive.tar"
        layers = debian_like(files, size)
        busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
        layers[0] += [file("usr/bin/busybox", busybox, 0o755), symlink("usr/bin/true", "busybox")]
        write_layout(self.layout, {IMAGE: image(layers, {**CONFIG, "Cmd": ["true"]})})
        programs.skopeo("copy", "-q", f"oci:{self.layout}:{IMAGE}", f"docker-archive:{self.archive}:{IMAGE}")
        self.name = f"{registry.name}/{IMAGE}"
        programs.skopeo(
            "copy", "-q", "--dest-tls-verify=false", f"oci:{self.layout}:{IMAGE}", f"docker://{self.name}"
        )


def all_work(programs: Programs, source: Source) -> list[Work]:
    def fresh(_: str) -> None:
        programs.fresh()

    def loaded(program: str) -> None:
        programs.fresh()
        if program == "pyunionfs":
            programs.pyunionfs("load", source.layout)
        else:
            programs.podman("load", "-q", "-i", source.archive)

    in_layout = f"{source.layout}:{IMAGE}"
    upper: list[str] = []

    def changed(program: str) -> None:
        loaded(program)
        if program == "pyunionfs":
            container = programs.pyunionfs("create", IMAGE, "true")
            upper[:] = [container]
            root = programs.base / "merged"
            root.mkdir(exist_ok=True)
            fields = (f"{{{{.GraphDriver.Data.{field}}}}}" for field in ("LowerDir", "UpperDir", "WorkDir"))
            data = programs.pyunionfs("inspect", "--format", "|".join(fields), container)
            lowers, top, work = data.split("|")
            programs.pyunionfs("mount", lowers, top, work, root)
            _change(root)
            programs.pyunionfs("umount", root)
        else:
            container = programs.buildah("from", "--pull-never", IMAGE)
            upper[:] = [container]
            _change(Path(programs.buildah("mount", container)))

    return [
        Work(
            "unpack a layout",
            "an OCI layout directory, to directories",
            {
                "pyunionfs": lambda: programs.pyunionfs("load", source.layout),
                "umoci": lambda: programs.umoci("unpack", "--image", in_layout, programs.bundle),
            },
            fresh,
            {"umoci": 0.7},
        ),
        Work(
            "load",
            "a docker-archive into the store",
            {
                "pyunionfs": lambda: programs.pyunionfs("load", source.archive),
                "podman": lambda: programs.podman("load", "-q", "-i", source.archive),
            },
            fresh,
            {"podman": 0.7},
        ),
        Work(
            "pull",
            "from a registry on loopback",
            {
                "pyunionfs": lambda: programs.pyunionfs("pull", source.name),
                "podman": lambda: programs.podman("pull", "-q", "--tls-verify=false", source.name),
                "skopeo": lambda: programs.skopeo(
                    *("copy", "-q", "--src-tls-verify=false"),
                    *(f"docker://{source.name}", f"oci:{programs.layout}:{IMAGE}"),
                ),
            },
            fresh,
            {"podman": 0.8},
        ),
        Work(
            "commit",
            f"after changes to {CHANGED} files",
            {
                "pyunionfs": lambda: programs.pyunionfs("commit", upper[0], "changed:1"),
                "buildah": lambda: programs.buildah("commit", "-q", upper[0], "changed:1"),
            },
            changed,
            {"buildah": 0.7},
        ),
        Work(
            "run",
            "`run --rm IMAGE true`, the image in the store",
            {
                "pyunionfs": lambda: programs.pyunionfs("run", "--rm", IMAGE, "true"),
                "podman": lambda: programs.podman(*_PODMAN_RUN, IMAGE, "true"),
            },
            loaded,
            {"podman": 0.7},
        ),
    ]


def _change(root: Path) -> None:
    """Append to files of the image, by their names' order, so that all programs' are the same."""
    left = CHANGED
    for path in sorted((root / "usr").rglob("*")):
        if left and path.is_file() and not path.is_symlink():
            with path.open("ab") as appended:
                appended.write(b"changed\n")
            left -= 1


def timed(action: Action) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
