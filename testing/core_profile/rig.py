"""A union made ready for the operations that are measured; `names.py` and `files.py` say which they are."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Caller
from unionfs.overlay.inode import ROOT_INO
from unionfs.overlay.super import Union
from unionfs.overlay.wait import complete

FILES = 400
"""How many files each kind of directory has, and so how often an operation is measured in a round."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Scenario = Callable[["Rig"], list[Call]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    def note(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return note


class Rig:
    """A union over fresh upper and work, and the numbers of the directories that scenarios use."""

    def __init__(self, base: Path, options: dict[str, Any]) -> None:
        self.base = base
        for name in ("upper", "work"):
            (base / name).mkdir()
        self.union = Union.open(
            UnionConfig(
                lowers=(str(base / "lower0"), str(base / "lower1")),
                upper=str(base / "upper"),
                work=str(base / "work"),
                **options,
            )
        )
        # Each copy-up by itself: no worker does it in advance.
        self.union.fs.prefetch.give_up()
        self.caller = Caller(0, 0, os.getpid(), 0o022)
        self.handles: list[Any] = []

    def close(self) -> None:
        for handle in self.handles:
            self.union.release(handle)
        self.union.close()
        for name in ("upper", "work"):
            shutil.rmtree(self.base / name)

    def ino(self, path: str) -> int:
        ino = ROOT_INO
        for part in filter(None, path.split("/")):
            entry = complete(self.union.lookup, ino, part.encode())
            assert entry is not None, path
            ino = entry[0].ino
        return ino

    def new_dir(self, name: str = "new") -> int:
        entry = complete(self.union.mkdir, ROOT_INO, name.encode(), 0o755, self.caller)
        return entry[0].ino

    def known(self, path: str) -> list[int]:
        """The files of a directory, looked up."""
        parent = self.ino(path)
        return [complete(self.union.lookup, parent, name)[0].ino for name in NAMES]  # type: ignore[index]

    def create(self, parent: int, name: bytes) -> Any:
        return self.union.create(parent, name, 0o644, os.O_RDWR, self.caller)

    def made(self, parent: int) -> list[int]:
        """Files made in upper, closed again."""
        inos = []
        for name in NAMES:
            inode, _, handle = complete(self.create, parent, name)
            handle.write(0, b"x" * 4096)
            self.union.release(handle)
            inos.append(inode.ino)
        return inos

    def open_release(self, ino: int, flags: int = os.O_RDONLY) -> None:
        self.union.release(complete(self.union.open_file, ino, flags, self.caller))

    def opened(self, ino: int, flags: int = os.O_RDONLY) -> Any:
        handle = complete(self.union.open_file, ino, flags, self.caller)
        self.handles.append(handle)
        return handle

    def waited(self, operation: Callable[..., Any], *args: Any) -> Call:
        return complete, (operation, *args)


NAMES = [b"file-%04d.txt" % number for number in range(FILES)]
ABSENT = [b"absent-%04d.txt" % number for number in range(FILES)]


def make_layers(base: Path) -> None:
    """lower1: Python's library, and the directories `merged` and `single`; lower0: a part of the same."""
    library = Path(sysconfig.get_path("stdlib"))
    skip = shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__")
    shutil.copytree(library, base / "lower1" / "library", symlinks=True, ignore=skip)
    shutil.copytree(library / "json", base / "lower0" / "library" / "json", symlinks=True, ignore=skip)
    for name in ("merged", "single", "links"):
        (base / "lower1" / name).mkdir()
    (base / "lower0" / "merged").mkdir()
    (base / "lower0" / "merged" / "above").write_bytes(b"")
    for name in map(os.fsdecode, NAMES):
        data = name.encode() * 300  # 4 KiB and a bit
        (base / "lower1" / "merged" / name).write_bytes(data)
        (base / "lower1" / "single" / name).write_bytes(data)
        os.symlink(name, base / "lower1" / "links" / name)
    (base / "lower1" / "big").write_bytes(os.urandom(1 << 20))
