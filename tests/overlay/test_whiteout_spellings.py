"""A deletion is read however it was spelled: in upper, in a lower in between, and in one alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.overlay.trees import Tree
from tests.support.mounts import needs_root

pytestmark = needs_root


def _xattr(prefix: str) -> Callable[[Path], None]:
    def mark(directory: Path) -> None:
        (directory / "gone").touch()
        os.setxattr(directory / "gone", f"{prefix}.overlay.whiteout", b"y")
        os.setxattr(directory, f"{prefix}.overlay.opaque", b"x")

    return mark


SPELLINGS: dict[str, Callable[[Path], None]] = {
    "a device": lambda d: os.mknod(d / "gone", 0o020000, 0),
    ".wh. file": lambda d: (d / ".wh.gone").touch(),
    ".wh. device": lambda d: os.mknod(d / ".wh.gone", 0o020000, 0),
    "trusted": _xattr("trusted"),
    "user": _xattr("user"),
}


CASES = [
    (spelling, where, own, foreign)
    for spelling in SPELLINGS
    for where in ("upper", "middle", "root", "alone")
    for own in ("user", "trusted")
    for foreign in (False, True)
    # Overlayfs reads attributes in lowers, under its own prefix; `foreign_marks` reads the other one, too.
    if spelling not in ("trusted", "user") or (where != "upper" and (spelling == own or foreign))
]


@pytest.mark.parametrize(("spelling", "where", "own", "foreign"), CASES)
def test_every_spelling_hides(stack: Stack, spelling: str, where: str, own: str, foreign: bool) -> None:
    old: Tree = {"gone": "old", "kept": "k"}
    stack.layers({"d": {}, "alone": {}}, {"d": dict(old), **old})
    places = {"upper": stack.upper / "d", "middle": stack.lowers[0] / "d", "root": stack.lowers[0]}
    place = places.get(where, stack.lowers[0] / "alone")
    place.mkdir(exist_ok=True)
    SPELLINGS[spelling](place)
    shown = {"root": "", "alone": "alone"}.get(where, "d")
    gone = f"{shown}/gone".lstrip("/")
    with stack.open(userxattr=own == "user", foreign_marks=foreign) as view:
        assert not view.exists(gone)
        names = view.ls(shown)
        assert "gone" not in names
        assert ".wh.gone" not in names
        assert where == "alone" or "kept" in names
    with stack.open(userxattr=own == "user", foreign_marks=foreign) as view:
        assert "gone" not in view.ls(shown)
        assert not view.exists(gone)
        view.create(gone, b"new")
        assert view.read(gone) == b"new"
        assert "gone" in view.ls(shown)
    with stack.open(userxattr=own == "user", foreign_marks=foreign) as view:
        assert view.read(gone) == b"new"
