"""A root filesystem of busybox for containers, and processes that are run in it by `run_in`.

`Box.run` starts `python -m tests.container.boxes`, which forks and handles signals as the commands do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.images import plant
from tests.support.mounts import REPOSITORY, environment
from unionfs.container.run import run_in
from unionfs.container.runner import StartError
from unionfs.container.spec import ProcessSpec, UnionSpec
from unionfs.image.store import Store

BUSYBOX = "/bin/busybox"
APPLETS = (
    "cat chmod chown cp cut dd echo env false grep head hostname id kill ln ls mkdir mkfifo mknod mount mv"
    " ps pwd readlink rm sh sleep sort stat stty tail test touch tr true tty umount wc"
)
TIMEOUT = 60


def make_tree(root: Path) -> None:
    """A root filesystem. Skips where there is no static busybox."""
    if not Path(BUSYBOX).exists():
        pytest.skip("needs busybox (Debian's package busybox-static)")
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in APPLETS.split():
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nann:x:1001:\naudio:x:29:ann,bob\nvideo:x:44:ann\n")


class Box:
    """A tree, alone or as the lower of a union in *place*."""

    def __init__(self, tree: Path, place: Path | None = None) -> None:
        self.tree = tree
        self.union = UnionSpec((), "", "", str(tree))
        if place is not None:
            for name in ("init", "upper", "work", "merged"):
                (place / name).mkdir()
            lowers = (str(place / "init"), str(tree))
            upper, work, merged = (str(place / name) for name in ("upper", "work", "merged"))
            self.union = UnionSpec(lowers, upper, work, merged)

    def words(self, *args: str, **fields: Any) -> list[str]:
        """The command that runs *args* there, and ends with their status; *fields* of ProcessSpec."""
        spec = ProcessSpec(args, **fields)
        documents = (msgspec.json.encode(each).decode() for each in (spec, self.union))
        return [sys.executable, "-m", "tests.container.boxes", *documents]

    def start(self, *args: str, **fields: Any) -> subprocess.Popen[str]:
        """Start it with pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.words(*args, **fields),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            cwd=REPOSITORY,
            env=environment(),
        )

    def run(self, *args: str, status: int = 0, given: str = "", **fields: Any) -> str:
        """What a command that ends with *status* prints; its errors, where that is not 0."""
        with self.start(*args, **fields) as process:
            try:
                out, err = process.communicate(given, timeout=TIMEOUT)
            finally:
                process.kill()
        assert process.returncode == status, f"{args} ended with {process.returncode}: {out}\n{err}"
        return out if status == 0 else out + err

    def shell(self, script: str, **fields: Any) -> str:
        """What a script of the shell prints."""
        return self.run("sh", "-euc", script, **fields)


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Shop:
    """A store with one image, `box`, unless it is to be *empty*; and the commands of pyunionfs on it."""

    def __init__(self, root: Path, *, empty: bool = False, **config: Any) -> None:
        self.store = Store(root)
        if not empty:
            plant(self.store, "box", [make_tree], **{"Cmd": ["sh"], **config})

    def words(self, command: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "unionfs", command, "--store", str(self.store.root), *words]

    def start(self, command: str, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.words(command, *words), stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment()
        )

    def do(self, command: str, *words: str, status: int = 0, given: str = "") -> str:
        """What a command that ends with *status* prints; its errors, where that is not 0."""
        with self.start(command, *words) as process:
            try:
                out, err = process.communicate(given, timeout=TIMEOUT)
            finally:
                process.kill()
        assert process.returncode == status, f"{words} ended with {process.returncode}: {out}\n{err}"
        return out if status == 0 else out + err

    def names(self) -> list[str]:
        """The containers, by name."""
        return self.do("ps", "-a", "--format", "{{.Names}}").split()


def main(words: list[str]) -> int:
    spec, union = (
        msgspec.convert(json.loads(word), kind)
        for word, kind in zip(words, (ProcessSpec, UnionSpec), strict=True)
    )
    try:
        return run_in(spec, union, lambda pid: None)
    except StartError as error:
        print(error, file=sys.stderr)
        return error.status


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
