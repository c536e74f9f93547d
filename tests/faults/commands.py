"""The commands into which faults are planted: each with the store that it starts from.

They run in the test's own process, by `unionfs.cli.main`, so that the calls that fail are theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testing.images import directory, file, hard_link, image, whiteout
from testing.images.archives import archive
from tests.overlay.trees import WHITEOUT, build
from unionfs.cli import main

_LOW = [
    directory("d"),
    file("d/file", b"f" * 1000, 0o640),
    file("gone", b"g"),
    file("x", xattrs={"user.a": b"1"}),
]
_HIGH = [hard_link("link", "d/file"), whiteout("gone"), file("top", b"t" * 100)]
FIRST = image([_LOW, _HIGH], {"Cmd": ["true"]})
SECOND = image([_LOW, [file("other", b"o" * 200)]], {"Cmd": ["true"]})


@dataclass(frozen=True)
class Command:
    """`words` meet the fault, in the directory *base*; `first` has been run before, without any."""

    name: str
    words: tuple[str, ...]
    first: tuple[tuple[str, ...], ...] = ()
    prepare: Callable[[Path], object] = lambda base: None
    partly: bool = False
    """It removes several things one after the other, each as a whole: it may fail between two of them."""


_LOAD = ("load", "-q", "first.tar")
_LOAD_BOTH = (_LOAD, ("load", "-q", "second.tar"))
_CREATE = ("create", "--name", "box", "first:1")


def archives(base: Path) -> None:
    """What `load` and `import` take."""
    (base / "first.tar").write_bytes(archive({"first:1": FIRST}, "oci"))
    (base / "second.tar").write_bytes(archive({"second:1": SECOND}, "docker_old"))
    (base / "rootfs").mkdir()
    (base / "rootfs/file").write_bytes(b"content")
    (base / "rootfs/dir").mkdir()
    (base / "rootfs/link").symlink_to("file")
    (base / "loose").write_bytes(b"to be copied")


def broken_layers(base: Path) -> None:
    """An upper that `check --repair` finds something in."""
    (base / "lower").mkdir()
    build(base / "lower", {"f": "lower", "d": {"a": "below"}})
    (base / "upper").mkdir()
    build(base / "upper", {"alone": WHITEOUT, "d": {"b": WHITEOUT}})
    (base / "work/work").mkdir(parents=True)
    (base / "work/work/#1").write_bytes(b"left")
    os.mkdir(base / "work/work/#2")


COMMANDS = [
    Command("load", _LOAD),
    Command("load of a second", _LOAD_BOTH[1], (_LOAD,)),
    Command("import", ("import", "rootfs", "rootfs:1")),
    Command("tag", ("tag", "first:1", "other:1"), (_LOAD,)),
    Command("rmi", ("rmi", "first:1"), _LOAD_BOTH),
    Command("rmi of a name", ("rmi", "other:1"), (_LOAD, ("tag", "first:1", "other:1"))),
    Command("prune", ("prune", "-a", "-f"), _LOAD_BOTH, partly=True),
    Command("save", ("save", "-o", "saved.tar", "first:1"), (_LOAD,)),
    Command("create", _CREATE, (_LOAD,)),
    Command("rm", ("rm", "box"), (_LOAD, _CREATE)),
    Command("cp", ("cp", "loose", "box:/d/loose"), (_LOAD, _CREATE)),
    Command("commit", ("commit", "box", "made:1"), (_LOAD, _CREATE, ("cp", "loose", "box:/d/loose"))),
    Command(
        "check --repair", ("check", "--repair", "lower", "upper", "work"), (), broken_layers, partly=True
    ),
]


def run(words: tuple[str, ...]) -> int:
    """The exit status of a command."""
    try:
        return main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)
