"""What a tree holds, and running programs: what all jobs check their results by."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAM_TIMEOUT = 180.0
"""How long a program of a job may take; some seconds do on an idle machine."""

Manifest = Mapping[str, tuple[object, ...]]
"""By path below the root: kind, mode, and what there is of time, size, digest or target."""

_SHOWN = 8


class Fault(Exception):
    """Something is not as it must be, whatever happened to a daemon."""


class ProgramFailed(Exception):
    """A program ended with an error, which it may when the daemon was killed under it."""


def manifest(root: Path) -> dict[str, tuple[object, ...]]:
    """All below a directory. OSError where anything cannot be read."""
    found: dict[str, tuple[object, ...]] = {}
    pending = [""]
    while pending:
        directory = pending.pop()
        for name in os.listdir(root / directory):
            path = f"{directory}/{name}" if directory else name
            st = os.lstat(root / path)
            mode = f"{stat.S_IMODE(st.st_mode):04o}"
            if stat.S_ISDIR(st.st_mode):
                found[path] = ("dir", mode, st.st_mtime_ns)
                pending.append(path)
            elif stat.S_ISLNK(st.st_mode):
                found[path] = ("symlink", os.readlink(root / path))
            else:
                digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
                found[path] = ("file", mode, st.st_mtime_ns, st.st_size, digest)
    return found


def check_tree(root: Path, expected: Manifest, what: str) -> None:
    """Fault where the tree is not this one."""
    found = manifest(root)
    if found == expected:
        return
    wrong = [
        f"{path}: expected {expected.get(path)}, found {found.get(path)}"
        for path in sorted(expected.keys() | found.keys())
        if expected.get(path) != found.get(path)
    ]
    more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    raise Fault(f"{what}, {root}:" + "".join(f"\n  {line}" for line in wrong[:_SHOWN]) + more)


def check(right: bool, text: str) -> None:
    """Fault with this text unless it is right."""
    if not right:
        raise Fault(text)


def remove(path: Path) -> None:
    """Remove what lies there, if anything does, by the program that people use for it."""
    run(["rm", "-rf", "--", str(path)])
    check(not os.path.lexists(path), f"{path} is there after rm -rf")


def has(program: str) -> bool:
    return shutil.which(program) is not None


def run(words: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints. ProgramFailed where it fails, Fault where it does not end."""
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=PROGRAM_TIMEOUT)
    except subprocess.TimeoutExpired:
        # A session of its own: what it has started goes with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PROGRAM_TIMEOUT)
        raise Fault(f"{' '.join(words)} does not end") from None
    if process.returncode != 0:
        raise ProgramFailed(f"{' '.join(words)} ended with {process.returncode}: {text[-2000:]}")
    return text
