"""Other programs that read and write images, each with storage of its own below one directory. For root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testing.images.trees import Node, tree

PATIENCE = 20.0
_CONTAINERD = """\
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{place}/socket"
[ttrpc]
address = "{place}/socket.ttrpc"
"""


def missing(*programs: str) -> str | None:
    """The reason why a test that needs them is skipped; None: all are there."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"needs {', '.join(absent)}" if absent else None


def run(*words: str | Path) -> str:
    """Run a program that must succeed; what it has printed."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Engine:
    """podman or buildah, with the vfs driver: what it shows is the image's tree and no union's."""

    program: str
    place: Path

    def run(self, *words: str | Path) -> str:
        own = ("--root", self.place / "root", "--runroot", self.place / "run", "--storage-driver", "vfs")
        return run(self.program, *own, *words)


@contextmanager
def engine(program: str) -> Iterator[Engine]:
    """An engine whose storage is removed at the end."""
    # podman allows its runroot 50 characters.
    place = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    try:
        yield Engine(program, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@dataclass(frozen=True)
class Containerd:
    """A containerd of one test."""

    place: Path

    def ctr(self, *words: str | Path) -> str:
        return run("ctr", "--address", self.place / "socket", *words)

    def tree_of(self, image: str) -> dict[bytes, Node]:
        """What it has unpacked, through the mount of overlayfs that it makes."""
        target = self.place / "mnt"
        target.mkdir()
        self.ctr("images", "mount", image, target)
        try:
            return tree(target)
        finally:
            self.ctr("images", "unmount", target)
            target.rmdir()


@contextmanager
def containerd(place: Path) -> Iterator[Containerd]:
    """Start containerd; it and all that it has stored are gone at the end."""
    place.mkdir()
    (place / "config.toml").write_text(_CONTAINERD.format(place=place))
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            ["containerd", "--config", str(place / "config.toml")], stdout=log, stderr=log
        )
    try:
        _wait(place, process)
        yield Containerd(place)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        shutil.rmtree(place)


def _wait(place: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(
        ["ctr", "--address", str(place / "socket"), "version"], capture_output=True, check=False
    ).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"containerd does not start: {(place / 'log').read_text()[-2000:]}")
        time.sleep(0.05)
