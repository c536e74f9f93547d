"""pyunionfs as it is installed from a wheel, and programs that run with that: no checkout is in their way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounts import REPOSITORY


@dataclass(frozen=True)
class Installed:
    """An environment with pyunionfs, and the tools of the environment that runs the tests."""

    python: Path

    def environment(self) -> dict[str, str]:
        """Nothing that would lead to the checkout."""
        return {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYTEST", "MYPY", "COV"))
        }

    def run(
        self, words: Sequence[str | Path], where: Path, *, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """A module with its arguments, in the directory `where`."""
        done = subprocess.run(
            [self.python, "-m", *words],
            cwd=where,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        assert status in (None, done.returncode), done.stdout
        return done

    def pytest(
        self, words: Sequence[str | Path], where: Path, *, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """pytest in the project `where`, as everybody would run it."""
        fixed = ("pytest", "-p", "no:cacheprovider", "-rA", "--basetemp", where.parent / "basetemp")
        return self.run([*fixed, *words], where, status=status)

    def mypy(
        self, words: Sequence[str | Path], where: Path, *, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """mypy --strict in the project `where`."""
        fixed = (
            "mypy",
            "--strict",
            "--python-executable",
            self.python,
            "--cache-dir",
            where.parent / "cache",
        )
        return self.run([*fixed, *words], where, status=status)


def install(where: Path) -> Installed:
    """Build a wheel and unpack it into a new environment, without the network."""
    source, wheels, environment = where / "source", where / "wheels", where / "venv"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "unionfs", source / "unionfs", ignore=shutil.ignore_patterns("__pycache__"))
    quiet = ["-q", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *quiet, "-w", wheels, source],
        check=True,
        timeout=180,
    )
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    packages = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    (wheel,) = wheels.iterdir()
    # A wheel of nothing but Python is installed by being unpacked.
    zipfile.ZipFile(wheel).extractall(packages)
    # pytest, mypy and what pyunionfs depends on; what is here comes first.
    (packages / "tools.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(python)
