"""The operations that `profile_core.py` measures: for each a union made ready, and the calls to be timed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unionfs.overlay.attr import Changes
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


# --- names --------------------------------------------------------------------------------------------


@scenario("lookup, merged directory, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.union.lookup(parent, b"above")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, merged directory, again")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.known("merged")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, one layer, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("single")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, upper, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    for ino in rig.made(parent):
        rig.union.forget(ino, 1)
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, copied up, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    for ino in rig.known("merged"):
        complete(rig.union.setattr, ino, Changes(mode=0o600), rig.caller, None)
        rig.union.forget(ino, 1)
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, symlink, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("links")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("miss, merged directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.union.lookup(parent, b"above")
    return [(rig.union.lookup, (parent, name)) for name in ABSENT]


@scenario("miss, one layer")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("single")
    return [(rig.union.lookup, (parent, name)) for name in ABSENT]


@scenario("miss, new directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(rig.union.lookup, (parent, name)) for name in ABSENT]


@scenario("forget")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.forget, (ino, 1)) for ino in rig.known("merged")]


@scenario("create and release, new directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(lambda name: rig.union.release(rig.create(parent, name)[2]), (name,)) for name in NAMES]


@scenario("create and release, merged directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.union.release(rig.create(parent, b"first")[2])
    return [(lambda name: rig.union.release(rig.create(parent, name)[2]), (name,)) for name in ABSENT]


@scenario("create over a whiteout")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.known("merged")
    for name in NAMES:
        complete(rig.union.unlink, parent, name)
    return [(lambda name: rig.union.release(rig.create(parent, name)[2]), (name,)) for name in NAMES]


@scenario("mkdir")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(rig.union.mkdir, (parent, name, 0o755, rig.caller)) for name in NAMES]


@scenario("rmdir")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    for name in NAMES:
        rig.union.mkdir(parent, name, 0o755, rig.caller)
    return [(rig.union.rmdir, (parent, name)) for name in NAMES]


@scenario("symlink")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(rig.union.symlink, (parent, name, b"target", rig.caller)) for name in NAMES]


@scenario("readlink")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.readlink, (ino,)) for ino in rig.known("links")]


@scenario("link")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    inos = rig.made(parent)
    return [(rig.union.link, (ino, parent, b"2" + name)) for ino, name in zip(inos, NAMES, strict=True)]


@scenario("unlink, new file")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    rig.made(parent)
    return [(rig.union.unlink, (parent, name)) for name in NAMES]


@scenario("unlink, new file in a merged directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    for name in ABSENT:
        rig.union.release(rig.create(parent, name)[2])
    return [(rig.union.unlink, (parent, name)) for name in ABSENT]


@scenario("unlink, lower file (whiteout)")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.known("merged")
    rig.union.release(rig.create(parent, b"first")[2])
    return [(rig.union.unlink, (parent, name)) for name in NAMES]


@scenario("unlink, copied-up file (whiteout)")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    for ino in rig.known("merged"):
        complete(rig.union.setattr, ino, Changes(mode=0o600), rig.caller, None)
    return [(rig.union.unlink, (parent, name)) for name in NAMES]


@scenario("rename, in a new directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    rig.made(parent)
    return [(rig.union.rename, (parent, name, parent, b"2" + name, 0)) for name in NAMES]


@scenario("rename over another")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    other = rig.new_dir("other")
    rig.made(parent)
    rig.made(other)
    return [(rig.union.rename, (parent, name, other, name, 0)) for name in NAMES]


# --- attributes ---------------------------------------------------------------------------------------


@scenario("getattr, lower file")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.getattr, (ino,)) for ino in rig.known("merged")]


@scenario("getattr, upper file")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.getattr, (ino,)) for ino in rig.made(rig.new_dir())]


@scenario("getattr, directory")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.getattr, (rig.ino("merged"),))] * FILES


@scenario("getxattr, absent, lower file")
def _(rig: Rig) -> list[Call]:
    return [(_absent, (rig, ino)) for ino in rig.known("merged")]


@scenario("getxattr, absent, upper file")
def _(rig: Rig) -> list[Call]:
    return [(_absent, (rig, ino)) for ino in rig.made(rig.new_dir())]


def _absent(rig: Rig, ino: int) -> None:
    with contextlib.suppress(OSError):
        rig.union.getxattr(ino, b"system.posix_acl_access")


@scenario("listxattr, lower file")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.listxattr, (ino, rig.caller)) for ino in rig.known("merged")]


@scenario("setxattr, upper file")
def _(rig: Rig) -> list[Call]:
    inos = rig.made(rig.new_dir())
    return [(rig.union.setxattr, (ino, b"user.some", b"value", 0, rig.caller)) for ino in inos]


@scenario("chmod, upper file")
def _(rig: Rig) -> list[Call]:
    inos = rig.made(rig.new_dir())
    return [(rig.union.setattr, (ino, Changes(mode=0o600), rig.caller, None)) for ino in inos]


@scenario("utimens, upper file")
def _(rig: Rig) -> list[Call]:
    inos = rig.made(rig.new_dir())
    changes = Changes(atime_ns=10**18, mtime_ns=10**18)
    return [(rig.union.setattr, (ino, changes, rig.caller, None)) for ino in inos]


# --- copy-up ------------------------------------------------------------------------------------------


@scenario("chmod, lower file (copy-up)")
def _(rig: Rig) -> list[Call]:
    rig.new_dir()
    inos = rig.known("merged")
    return [rig.waited(rig.union.setattr, ino, Changes(mode=0o600), rig.caller, None) for ino in inos]


@scenario("append-open, lower file (copy-up)")
def _(rig: Rig) -> list[Call]:
    return [(_append, (rig, ino)) for ino in rig.known("merged")]


@scenario("truncating open, lower file")
def _(rig: Rig) -> list[Call]:
    flags = os.O_WRONLY | os.O_TRUNC
    return [(rig.open_release, (ino, flags)) for ino in rig.known("merged")]


def _append(rig: Rig, ino: int) -> None:
    handle = complete(rig.union.open_file, ino, os.O_WRONLY | os.O_APPEND, rig.caller)
    handle.write(rig.union.getattr(ino)[1].st_size, b"more\n")
    rig.union.release(handle)


# --- data ---------------------------------------------------------------------------------------------


@scenario("open and release, lower file")
def _(rig: Rig) -> list[Call]:
    return [(rig.open_release, (ino,)) for ino in rig.known("merged")]


@scenario("open and release, upper file")
def _(rig: Rig) -> list[Call]:
    return [(rig.open_release, (ino,)) for ino in rig.made(rig.new_dir())]


@scenario("read 4 KiB")
def _(rig: Rig) -> list[Call]:
    handle = rig.opened(rig.ino("big"))
    handle.read(0, 1 << 20)
    return [(handle.read_now, (number % 256 * 4096, 4096)) for number in range(FILES)]


@scenario("read 128 KiB")
def _(rig: Rig) -> list[Call]:
    handle = rig.opened(rig.ino("big"))
    handle.read(0, 1 << 20)
    return [(handle.read_now, (number % 8 * 131072, 131072)) for number in range(FILES)]


@scenario("write 4 KiB")
def _(rig: Rig) -> list[Call]:
    handle = rig.opened(rig.made(rig.new_dir())[0], os.O_RDWR)
    data = b"x" * 4096
    return [(handle.write, (number * 4096, data)) for number in range(FILES)]


# --- listings -----------------------------------------------------------------------------------------


def _list(rig: Rig, ino: int, known: bool) -> None:
    handle = rig.union.open_dir(ino)
    for _, entry, cookie in complete(rig.union.read_dir, handle, 0):
        assert entry is not None
        if cookie > 2 and not known:
            rig.union.remember(entry[0])
    rig.union.release_dir(handle)


@scenario(f"list {FILES} lower files with entries, first")
def _(rig: Rig) -> list[Call]:
    return [(_list, (rig, rig.ino("merged"), False))]


@scenario(f"list {FILES} lower files with entries, again")
def _(rig: Rig) -> list[Call]:
    _list(rig, rig.ino("merged"), False)
    return [(_list, (rig, rig.ino("merged"), True))]


def _list_plain(rig: Rig, ino: int) -> None:
    handle = rig.union.open_dir(ino)
    for _ in complete(rig.union.read_dir_plain, handle, 0):
        pass
    rig.union.release_dir(handle)


@scenario(f"list {FILES} lower files without entries")
def _(rig: Rig) -> list[Call]:
    rig.union.lookup(rig.ino("merged"), b"above")
    return [(_list_plain, (rig, rig.ino("merged")))]


@scenario("list a small directory with entries, again")
def _(rig: Rig) -> list[Call]:
    rig.new_dir()
    _list(rig, ROOT_INO, False)
    return [(_list, (rig, ROOT_INO, True))] * 50
