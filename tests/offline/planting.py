"""What is planted into a union that has been used: the wrong marks, whiteouts, entries and files."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

from tests.overlay.rig import Stack
from tests.overlay.trees import TRUSTED, Tree, file

BOTTOM: Tree = {
    "a": "a",
    "b": "b",
    "gone": "gone",
    "d": {"f": "f", "e": {"deep": "deep"}},
    "m": {"low": "low", "sub": {"s": "s"}},
    "moved": {"in": "in", "x": {"y": "y"}},
    "other": {"o": "o"},
    "data": file("data", mode=0o644),
    "plain": {"p": "p"},
}


TOP: Tree = {"d": {"top": "top"}, "t": "t"}


BOTH: dict[str, Any] = {"metacopy": True, "index": True}


def used(stack: Stack) -> None:
    """A union with some of everything: copies, a whiteout, a redirect, a metacopy, an indexed hard link."""
    stack.layers(TOP, BOTTOM)
    bottom = stack.lowers[1]
    (bottom / "h1").write_text("linked")
    os.link(bottom / "h1", bottom / "h2")
    with stack.open(metacopy=True, index=True) as view:
        view.write("a", b"A")
        view.write("d/e/deep", b"D")
        view.unlink("gone")
        view.rename("moved", "here")
        view.write("here/in", b"I")
        view.chmod("data", 0o600)
        view.write("h1", b"H")
        view.mkdir("new")
        view.create("new/n", b"n")
        view.write("m/sub/s", b"S")


def put(path: Path, mark: str, value: bytes, prefix: str = TRUSTED) -> None:
    os.setxattr(path, prefix + mark, value, follow_symlinks=False)


def drop(path: Path, mark: str) -> None:
    os.removexattr(path, TRUSTED + mark, follow_symlinks=False)


def origin_of(path: Path) -> bytes:
    return os.getxattr(path, TRUSTED + "origin", follow_symlinks=False)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def new_directory(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def indexed(stack: Stack) -> Path:
    """The index entry of the hard link."""
    (entry,) = [path for path in (stack.work / "index").iterdir() if path.name.startswith("00fb")]
    return entry


def opaque_with_whiteout(stack: Stack) -> None:
    where = new_directory(stack.upper / "opaque")
    put(where, "opaque", b"y")
    whiteout(where / "w")


def whiteout_file(stack: Stack) -> None:
    put(stack.upper / "m", "opaque", b"x")
    (stack.upper / "m/nothing").touch()
    put(stack.upper / "m/nothing", "whiteout", b"y")


def move_lower(stack: Stack) -> None:
    shutil.rmtree(stack.lowers[1] / "moved")
    # What it held must not be the only thing that is missed.
    (stack.upper / "here/in").unlink()


def two_redirects(stack: Stack) -> None:
    put(new_directory(stack.upper / "twin"), "redirect", b"/other")


def nothing_covers(stack: Stack) -> None:
    (stack.upper / "moved").unlink()


def metacopy_without_data(stack: Stack) -> None:
    (stack.lowers[1] / "data").unlink()


def other_metacopy(stack: Stack) -> None:
    """Its origin is one lower file, and at its path is another."""
    (stack.lowers[1] / "data").rename(stack.lowers[1] / "away")
    (stack.lowers[1] / "data").write_text("DATA")


def deleted_lower(stack: Stack) -> None:
    (stack.lowers[1] / "a").unlink()


def wrong_type(stack: Stack) -> None:
    put(stack.upper / "a", "origin", origin_of(stack.upper / "d"))


def foreign_origin(stack: Stack) -> None:
    value = bytearray(origin_of(stack.upper / "a"))
    value[5:21] = b"no filesystem 16"
    put(stack.upper / "a", "origin", bytes(value))


def redirect_elsewhere(stack: Stack) -> None:
    put(stack.upper / "here", "redirect", b"/other")
    whiteout(stack.upper / "other")
    (stack.upper / "moved").unlink()


def volatile(stack: Stack) -> None:
    mark = stack.work / "work/incompat/volatile"
    mark.mkdir(parents=True)
    (mark / "dirty").touch()


def litter(stack: Stack) -> None:
    for place in ("work", "index"):
        (stack.work / place / "#1").write_text("half a file")
    tree = stack.work / "work/#2"
    tree.mkdir(mode=0)
    (tree / "x").touch()


def entry_of_nobody(stack: Stack, data: str) -> Path:
    """An index entry of a lower file that was deleted since."""
    handle = origin_of(stack.upper / "a")
    (stack.lowers[1] / "a").unlink()
    entry = stack.work / "index" / handle.hex()
    entry.write_text(data)
    put(entry, "origin", handle)
    drop(stack.upper / "a", "origin")
    return entry


def stale_entry_with_links(stack: Stack) -> None:
    entry = entry_of_nobody(stack, "linked to")
    os.link(entry, stack.upper / "kept")
    put(stack.upper, "impure", b"y")

    # The name in upper has the same origin as the entry, rightly: that is told, too.


def orphan_entry(stack: Stack) -> None:
    entry = indexed(stack)
    (stack.upper / "h1").unlink()
    whiteout(stack.upper / "h1")
    whiteout(stack.upper / "h2")
    put(entry, "nlink", b"U-1")


def misnamed_entry(stack: Stack) -> None:
    os.link(indexed(stack), stack.work / "index" / origin_of(stack.upper / "d/e/deep").hex())


def directory_entry(stack: Stack, value: bytes | None, content: bool = False) -> None:
    where = new_directory(stack.work / "index" / origin_of(stack.upper / "d").hex())
    if value is not None:
        put(where, "upper", value)
    if content:
        (where / "x").touch()


def stale_directory_entry(stack: Stack) -> None:
    """Of a directory in upper that does not exist any more."""
    doomed = new_directory(stack.upper / "doomed")
    shutil.rmtree(doomed)
    handle = bytearray(origin_of(stack.upper / "d"))
    handle[-1] ^= 0x55  # another generation of the inode
    directory_entry(stack, bytes(handle))


def other_top(stack: Stack) -> None:
    put(stack.upper, "origin", origin_of(stack.upper / "d/e"))


def lower_metacopy(stack: Stack) -> None:
    put(stack.lowers[1] / "b", "metacopy", b"")


def lower_redirect(stack: Stack) -> None:
    put(stack.lowers[0] / "d", "redirect", b"/no/such")


def lower_bad_redirect(stack: Stack) -> None:
    put(stack.lowers[0] / "d", "redirect", b"../..")


def user_metacopy(stack: Stack) -> None:
    shutil.rmtree(stack.work / "index")  # that was made with trusted marks
    put(stack.upper / "a", "metacopy", b"", "user.overlay.")


def file_for_work(stack: Stack) -> None:
    (stack.work / "work").rmdir()
    (stack.work / "work").touch()
