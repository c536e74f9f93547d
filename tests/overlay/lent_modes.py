"""Kills the union of an ordinary user after each change of a mode: `python -m ... DIRECTORY`, as that user.

What the next mount shows, and what upper holds then, must have the modes that the user gave.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unionfs.overlay.closed import open_union
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Caller
from unionfs.overlay.inode import ROOT_INO
from unionfs.overlay.super import Union
from unionfs.overlay.wait import complete

MODES = {"g": 0o111, "g/e": 0, "g/e/sub": 0o444, "g/e/f": 0, "g/e/x": 0o400}
ME = Caller(os.getuid(), os.getgid(), os.getpid(), 0o022)
KILLED = 9


def build(base: Path) -> UnionConfig:
    lower, upper, work = (base / name for name in ("lower", "upper", "work"))
    for path in (lower / "g/e/sub", upper / "g/e/sub", work):
        path.mkdir(parents=True)
    (lower / "g/e/low").write_text("lower\n")
    (lower / "g/e/sub/hidden").write_text("below\n")
    for name in ("f", "x"):
        (upper / "g/e" / name).write_text("data\n")
    os.symlink("hidden" * 200, upper / "g/e/sub/link")
    for name in sorted(MODES, reverse=True):
        (upper / name).chmod(MODES[name])
    return UnionConfig((str(lower),), upper=str(upper), work=str(work), userxattr=True)


def number(union: Union, *names: bytes) -> int:
    ino = ROOT_INO
    for name in names:
        entry = complete(union.lookup, ino, name)
        assert entry is not None, name
        ino = entry[0].ino
    return ino


def read(union: Union) -> None:
    file = complete(union.open_granted, number(union, b"g", b"e", b"f"), ME, writes=True)
    assert file.read(0, 100) == b"data\n"
    union.release(file)


def copy_up(union: Union) -> None:
    complete(union.copy_up, number(union, b"g", b"e", b"low"))


def make(union: Union) -> None:
    complete(union.mkdir, number(union, b"g", b"e"), b"made", 0o755, ME)


def rename(union: Union) -> None:
    directory = number(union, b"g", b"e")
    complete(union.rename, directory, b"x", number(union, b"g"), b"y", 0)


def listed(union: Union) -> None:
    handle = union.open_dir(number(union, b"g", b"e", b"sub"))
    assert len([entry for entry in complete(union.read_dir, handle, 0) if entry[1] is not None]) == 4
    union.release_dir(handle)


def remove(union: Union) -> None:
    sub = number(union, b"g", b"e", b"sub")
    for name in (b"hidden", b"link"):
        complete(union.unlink, sub, name)
    complete(union.rmdir, number(union, b"g", b"e"), b"sub")


def killed_after(config: UnionConfig, deed: Callable[[Union], None], count: int) -> bool:
    """Do a deed in a process that ends after so many changes of modes; whether it came so far."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED), f"{deed.__name__}, killed after {count}: {status}"
        return status == KILLED
    try:
        union = open_union(config)
        chmod = os.chmod
        left = count

        def fatal(path: bytes, mode: int, **keywords: Any) -> None:
            nonlocal left
            chmod(path, mode, **keywords)
            left -= 1
            if not left:
                os._exit(KILLED)

        os.chmod = fatal  # type: ignore[assignment]
        deed(union)
        union.close()
        os._exit(0)
    finally:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def modes(top: Path) -> dict[str, int]:
    """The modes of what is still there, each directory opened by hand once it was looked at."""
    found = {}
    for name in MODES:
        path = top / name
        if path.is_file() or path.is_dir():
            found[name] = stat.S_IMODE(path.stat().st_mode)
            if path.is_dir():
                path.chmod(0o755)
    return found


def main(base: Path) -> None:
    for deed in (read, copy_up, make, rename, listed, remove):
        count = 0
        while True:
            count += 1
            config = build(base)
            again = killed_after(config, deed, count)
            open_union(config).close()
            found = modes(base / "upper")
            wanted = {name: mode for name, mode in MODES.items() if name in found}
            assert found == wanted, f"{deed.__name__}, killed after {count}: {found}"
            assert os.listdir(base / "work/work") == [], deed.__name__
            for name in ("lower", "upper", "work"):
                shutil.rmtree(base / name)
            if not again:
                break
        assert count > 1, f"{deed.__name__} changed no mode"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
