"""The programs that are compared, each with storage of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from testing.bench.systems import BenchError
from testing.mounts import REPOSITORY

IMAGE = "bench:1"

_SETTINGS = """\
[containers]
cgroups = "disabled"
seccomp_profile = "unconfined"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
"""
"""What podman does without, on a machine with no systemd; pyunionfs has neither cgroups nor seccomp."""


class Programs:
    """Runs them in *base*, where all that they store stays until `remove`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._fresh = 0
        self._settings = base / "containers.conf"
        self._settings.write_text(_SETTINGS)
        # As an installed program's are: compiling them takes longer than some of what is timed.
        run([sys.executable, "-m", "compileall", "-q", REPOSITORY / "unionfs"])

    def fresh(self) -> None:
        """From now on every storage is an empty one."""
        self._fresh += 1

    def _place(self, name: str) -> Path:
        return self.base / f"{name}-{self._fresh}"

    @property
    def bundle(self) -> Path:
        return self._place("bundle")

    @property
    def layout(self) -> Path:
        return self._place("layout")

    def pyunionfs(self, *words: str | Path) -> str:
        return run([sys.executable, "-m", "unionfs", *words], {"PYUNIONFS_STORE": str(self._place("store"))})

    def podman(self, *words: str | Path) -> str:
        return self._engine("podman", *words)

    def buildah(self, *words: str | Path) -> str:
        return self._engine("buildah", *words)

    def umoci(self, *words: str | Path) -> str:
        return run(["umoci", *words])

    def skopeo(self, *words: str | Path) -> str:
        return run(["skopeo", "--insecure-policy", *words])

    def _engine(self, *words: str | Path) -> str:
        return run([words[0], *self._containers(), *words[1:]], {"CONTAINERS_CONF": str(self._settings)})

    def _containers(self) -> list[str]:
        """Of podman and buildah: kernel overlayfs, which is their fastest."""
        places = ["--root", str(self._place("podman")), "--runroot", str(self._place("run"))]
        return [*places, "--storage-driver", "overlay"]


def remove(directory: Path) -> None:
    """Remove a tree in which podman may have its storage mounted.

    What clears up after a container mounts it once more, after `podman run` has ended.
    """
    deadline = time.monotonic() + 20
    while True:
        _unmount_below(directory)
        try:
            shutil.rmtree(directory)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _unmount_below(directory: Path) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for mountpoint in reversed([line.split()[4] for line in lines]):
        if Path(mountpoint).is_relative_to(directory):
            run(["umount", "--lazy", mountpoint])


def run(words: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises BenchError, with the end of what it says, where it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(map(str, words[:6]))}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """This process's, but for what keeps Python from using compiled modules of its own."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    return {name: value for name, value in os.environ.items() if name not in left_out}


Action = Callable[[], object]
