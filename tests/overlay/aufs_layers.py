"""Layers of the tests of `whiteouts=aufs`."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.overlay.rig import View
from tests.overlay.trees import Tree

MARK = "file ''"


LOWER: Tree = {
    "f": "f",
    "g": "g",
    "dir": {"a": "a", "b": "b"},
    "m": {"low": "low", "sub": {"s": "s"}},
    "empty": {},
}


UPPER: Tree = {"m": {"up": "up"}, "own": {"o": "o"}, "f": "F", "u": "u"}


Act = Callable[[View], object]


def tmpfile(view: View, parent: str, name: str) -> None:
    union = view.union
    inode, _, handle = union.tmpfile(view.ino(parent), 0o600, os.O_RDWR, view.caller)
    view.known[inode.ino] += 1
    try:
        union.link(inode.ino, view.ino(parent), name.encode())
        view.known[inode.ino] += 1
    finally:
        union.release(handle)
