"""The programs that an installation puts on PATH and into /sbin, made for a test from this checkout.

They are what pip makes of the entry points in pyproject.toml, and pyproject.toml says which there are.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from tests.support.mounts import REPOSITORY


def entry_points() -> dict[str, str]:
    """MODULE:FUNCTION by the name of the program."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found: dict[str, str] = project["scripts"]
    return found


def write(program: Path, name: str = "pyunionfs") -> None:
    """Write a program of this checkout that takes nothing from the environment: engines have their own."""
    module, _, function = entry_points()[name].partition(":")
    program.write_text(
        f"#!{sys.executable} -B\nimport sys\nsys.path[0] = {str(REPOSITORY)!r}\n"
        f"from {module} import {function}\n{function}()\n"
    )
    program.chmod(0o755)


def install(commands: Path, helpers: Path) -> None:
    """Put `pyunionfs` into one directory, and into the other what mount(8) and umount(8) look for."""
    for name in entry_points():
        write((helpers if name.startswith(("mount.", "umount.")) else commands) / name, name)
    for name in ("mount", "umount"):
        (helpers / f"{name}.pyunionfs").symlink_to(f"{name}.fuse.pyunionfs")
