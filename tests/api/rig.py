"""What the API's tests share: other programs that use the API, and looking at what they leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import unionfs
from tests.support.mounts import REPOSITORY, environment

PATIENCE = 15.0


def program(text: str, *words: str | Path, **keywords: Any) -> subprocess.Popen[str]:
    """Another Python that runs this text, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
        **keywords,
    )


def run(text: str, *words: str | Path, status: int = 0, **keywords: Any) -> str:
    """What it prints; it must end with this status."""
    with program(text, *words, **keywords) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == status, out + err
    return out + err


def contents(tree: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below with its mode and data, to see that nothing changed."""
    return {
        str(path.relative_to(tree)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(tree.rglob("*"))
    }


def mounted_at(path: Path) -> unionfs.Mounted:
    """What `mounts` says of it; others may be there, too."""
    (found,) = (each for each in unionfs.mounts() if each.path == path)
    return found
