"""The programs that are compared, each with storage of its own that is thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from testing.bench.systems import BenchError
from testing.mounts import REPOSITORY

IMAGE = "bench:1"


class Programs:
    """Runs them in *base*; `fresh` throws their storage away."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._fresh = 0

    def fresh(self) -> None:
        """From now on every storage is an empty one."""
        self.clear()
        self._fresh += 1

    def clear(self) -> None:
        for name in ("store", "podman", "run", "bundle", "layout"):
            path = self._place(name)
            if path.exists():
                _unmount_below(path)
                shutil.rmtree(path)

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
        return run(["podman", *self._containers(), *words])

    def buildah(self, *words: str | Path) -> str:
        return run(["buildah", *self._containers(), *words])

    def umoci(self, *words: str | Path) -> str:
        return run(["umoci", *words])

    def skopeo(self, *words: str | Path) -> str:
        return run(["skopeo", "--insecure-policy", *words])

    def _containers(self) -> list[str]:
        """Of podman and buildah: kernel overlayfs, which is their fastest."""
        places = ["--root", str(self._place("podman")), "--runroot", str(self._place("run"))]
        return [*places, "--storage-driver", "overlay"]


def _unmount_below(directory: Path) -> None:
    """podman and buildah leave their storage mounted on itself."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mountpoint in sorted(mounts, reverse=True):
        if Path(mountpoint).is_relative_to(directory):
            run(["umount", mountpoint])


def run(words: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises BenchError, with the end of what it says, where it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(map(str, words[:6]))}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


Action = Callable[[], object]
