"""Layers of an owner with bad intentions: every look and every change ends, by a result or by an errno.

Nothing outside of the layers is read or written, and no attribute of an object costs another one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import TRUSTED, USER, Spec, build, directory, file
from tests.support.mounts import loop_fs, needs_overlayfs, needs_root, overlayfs
from unionfs.errors import MountError
from unionfs.overlay.config import OwnersConfig
from unionfs.overlay.format import Format
from unionfs.overlay.inode import ROOT_INO
from unionfs.overlay.layer import DirFds, Layer
from unionfs.overlay.wait import complete

pytestmark = needs_root

MARKS = (
    "opaque",
    "redirect",
    "metacopy",
    "origin",
    "impure",
    "nlink",
    "upper",
    "uuid",
    "protattr",
    "whiteout",
)
OVERRIDES = ("user.containers.override_stat", "user.fuseoverlayfs.override_stat")
_HEADER = bytes((0, 0xFB, 29, 0, 1)) + bytes(16)
VALUES = (
    b"",
    b"\0",
    b"y",
    b"x",
    b"/",
    b"/../../etc",
    b"../../../../etc/passwd",
    b"/" + b"a/" * 1200,
    b"/a\0b",
    b"\xff\xfe\n\x1b[2J",
    b"-1",
    b"L+99999999999999999999",
    b"U-1",
    b"ai" * 40,
    b"9" * 500,
    b"0:0:4777",
    b"4294967295:-1:7777777",
    b"0:0:644:block-99999999999-99999999999",
    b"0:0:644:char-1-5",
    _HEADER,
    _HEADER + bytes(8),
    _HEADER + b"\xff" * 8,
    bytes((0, 0xFB, 255, 6, 0xFF)) + b"\xff" * 250,
    b"z" * 2500,
)


def plant(top: Path, names: tuple[str, ...], seed: int) -> None:
    """One object of each kind for each attribute and value; what the filesystem refuses is not there."""
    draw = random.Random(seed)
    for mark in names:
        for number, value in enumerate((*VALUES, draw.randbytes(40), draw.randbytes(300))):
            for kind in "fdl":
                path = top / f"{kind}-{mark.partition('.')[2]}-{number}"
                if kind == "f":
                    path.write_bytes(b"" if number % 2 else b"own")
                elif kind == "d":
                    path.mkdir()
                    (path / "own").write_bytes(b"own")
                else:
                    path.symlink_to("own")
                with contextlib.suppress(OSError):
                    os.setxattr(path, mark, value, follow_symlinks=False)


def deeds(name: str) -> Iterator[Callable[[View], object]]:
    """What is done to one planted object; the last one is for what the others left."""
    yield lambda view: view.find(name)
    yield lambda view: view.stat(name)
    yield lambda view: view.listxattr(name)
    yield lambda view: view.getxattr(name, "trusted.overlay.origin")
    yield lambda view: view.union.statx(view.ino(name))
    yield lambda view: view.union.get_flags(view.ino(name))
    if name.startswith("d"):
        yield lambda view: view.ls(name)
        yield lambda view: view.tree(name)
        yield lambda view: view.create(name + "/new", b"new")
    elif name.startswith("l"):
        yield lambda view: view.readlink(name)
    else:
        yield lambda view: view.read(name)
        yield lambda view: view.write(name, b"w")
        yield lambda view: view.change(name, size=1)
        yield lambda view: view.link(name, name + "+")
    yield lambda view: view.chmod(name, 0o700)
    yield lambda view: view.change(name, uid=7, gid=7)
    yield lambda view: view.setxattr(name, "user.x", b"x")
    yield lambda view: view.rename(name, name + "-")
    yield lambda view: view.rmdir(name + "-") if name.startswith("d") else view.unlink(name + "-")


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "index": {"index": True, "metacopy": True},
    "user": {"userxattr": True, "redirect_dir": "nofollow"},
    "engine": {"foreign_marks": True, "owners": OwnersConfig(xattr_permissions=2), "whiteouts": "aufs"},
    "data": {"metacopy": True},
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("place", ["upper", "top", "bottom"])
def test_garbage_in_every_mark(stack: Stack, config: str, place: str) -> None:
    """A bug would raise something else than OSError: the daemon logs that, and it costs a request."""
    prefix = USER if config == "user" else TRUSTED
    names = (*(prefix + mark for mark in MARKS), *OVERRIDES)
    stack.layers({"pad": ""}, {"pad": "", "own": "secret of the layer"}, upper={})
    if config == "data":
        stack.data({"a": {}}, {"b": ""})
    hostile = {"upper": stack.upper, "top": stack.lowers[0], "bottom": stack.lowers[1]}[place]
    plant(hostile, names, 1)
    build(stack.base / "etc", {"passwd": "outside"})
    planted = sorted(os.listdir(hostile))
    assert len(planted) > 3 * len(MARKS) * len(VALUES)
    with stack.open(**CONFIGS[config]) as view:
        shown = set(view.ls())
        for name in planted:
            for deed in deeds(name):
                with contextlib.suppress(OSError):
                    found = deed(view)
                    assert (
                        b"outside" not in found if isinstance(found, bytes) else "outside" not in str(found)
                    )
            view.union.fs.dirfds.trim()
        # What is not a whiteout is listed, whatever its other attributes say.
        hidden = {name for name in planted if name not in shown}
        assert all("whiteout" in name for name in hidden)
    assert (stack.base / "etc/passwd").read_text() == "outside"


@pytest.mark.parametrize("where", ["upper", "work", "work/work", "work/index", "lower0", "lower1"])
def test_garbage_on_the_directories_themselves(stack: Stack, where: str) -> None:
    """Either the union opens and works, or it is refused by a message."""
    stack.layers({"f": "f"}, {"g": "g"})
    (stack.work / "work").mkdir()
    (stack.work / "index").mkdir()
    path = stack.base / where
    for mark in MARKS:
        for value in VALUES:
            with contextlib.suppress(OSError):
                os.setxattr(path, TRUSTED + mark, value)
                for options in ({}, {"index": True}):
                    with contextlib.suppress(MountError), stack.open(**options) as view:
                        assert view.read("f") == b"f", (mark, value)
                        view.create("new", b"n")
                        view.unlink("new")
                os.removexattr(path, TRUSTED + mark)


def test_a_lower_cannot_be_written_by_the_daemon_itself(stack: Stack) -> None:
    """The kernel refuses it, whatever a bug or a request would have the daemon do."""
    stack.layers({"f": "f", "d": {}})
    with stack.open() as view:
        lower = view.union.fs.lowers[0].root_fd
        attempts: list[Callable[[], object]] = [
            lambda: os.open("f", os.O_WRONLY, dir_fd=lower),
            lambda: os.mkdir("new", dir_fd=lower),
            lambda: os.unlink("f", dir_fd=lower),
            lambda: os.chmod("f", 0o777, dir_fd=lower),
            lambda: os.utime("f", (1, 1), dir_fd=lower),
            lambda: os.rename("f", "g", src_dir_fd=lower, dst_dir_fd=lower),
            lambda: os.setxattr(f"/proc/self/fd/{lower}/f", "user.x", b"x"),
        ]
        for attempt in attempts:
            with pytest.raises(OSError) as failure:
                attempt()
            assert failure.value.errno == errno.EROFS


def test_garbage_in_the_index(stack: Stack) -> None:
    stack.layers({"a": "data", "pad": ""})
    os.link(stack.lowers[0] / "a", stack.lowers[0] / "b")
    with stack.open(index=True) as view:
        view.write("a", b"D")
    index = stack.work / "index"
    [entry] = os.listdir(index)
    for kind in ("directory", "symlink", "fifo", "whiteout", "other"):
        os.unlink(index / entry)
        make: dict[str, Callable[[Path], object]] = {
            "directory": Path.mkdir,
            "symlink": lambda path: path.symlink_to("/etc/passwd"),
            "fifo": os.mkfifo,
            "whiteout": lambda path: os.mknod(path, stat.S_IFCHR, 0),
            "other": lambda path: path.write_bytes(b"of another"),
        }
        make[kind](index / entry)
        for odd in ("00", "zz", "0" * 255, "#1-", "\n"):
            (index / odd).touch()
        with stack.open(index=True) as view:
            for name in ("a", "b"):
                for deed in (View.stat, View.read):
                    with contextlib.suppress(OSError):
                        assert b"root:" not in (
                            found if isinstance(found := deed(view, name), bytes) else b""
                        )
                with contextlib.suppress(OSError):
                    view.write(name, b"E")
        if kind == "directory":
            (index / entry).rmdir()
            (index / entry).touch()


def test_an_origin_shows_nothing_of_what_it_names(stack: Stack) -> None:
    """Its handle opens any object of that filesystem, also outside of the layer: only a number is taken."""
    secret = build(stack.base / "outside", {"secret": file("secret", mode=0o600)}) / "secret"
    stack.layers({"pad": ""}, upper={"f": file("own", mode=0o644)})
    fd = os.open(stack.upper, os.O_RDONLY)
    above = os.open(secret.parent, os.O_RDONLY)
    layer = Layer(0, str(secret.parent), above, DirFds(8))
    try:
        handle = Format(False).encode_origin(layer, layer.root, b"secret")
    finally:
        layer.close()
        os.close(fd)
    if not handle:
        pytest.skip("this filesystem has no handles")
    os.setxattr(stack.upper / "f", TRUSTED + "origin", handle)
    with stack.open() as view:
        assert view.read("f") == b"own"
        st = view.stat("f")
        assert (stat.S_IMODE(st.st_mode), st.st_size) == (0o644, 3)


@needs_overlayfs
def test_redirects_in_a_circle_end(stack: Stack) -> None:
    """Each leads to the layers below only: there are as many steps as layers."""
    one: dict[str, Spec] = {
        "a": directory({}, redirect="/b"),
        "b": directory({}, redirect="/c/d"),
        "c": {"d": directory({}, redirect="/a")},
        "s": directory({}, redirect="/s"),
    }
    stack.layers(*[one] * 20, {"a": {"x": ""}, "b": {"y": ""}, "c": {"d": {"z": ""}}, "s": {"t": ""}})
    names = ("a", "b", "c/d", "s", "a/d", "b/redirect")

    def listings(ls: Callable[[str], list[str]]) -> dict[str, list[str]]:
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found[name] = ls(name)
        return found

    with stack.open() as view:
        ours = listings(view.ls)
        calls = len(view.union.fs.table)  # inodes
    assert calls < 30
    with overlayfs(
        stack.lowers, stack.upper, stack.work, stack.merged, options=["redirect_dir=on"]
    ) as merged:
        assert ours == listings(lambda name: sorted(os.listdir(merged / name)))


@pytest.mark.parametrize("spare", [0, 5])
def test_as_many_attributes_as_there_is_room_for(stack: Stack, spare: int) -> None:
    """They are copied up as they are, or the caller gets an errno and nothing is there; other files go on."""
    stack.layers({"bomb": "data", "other": "other"})
    bomb = stack.lowers[0] / "bomb"
    with contextlib.suppress(OSError):
        for number in range(3000):
            os.setxattr(bomb, f"user.{number:0>20}", b"v" * 15)
    with contextlib.suppress(OSError):
        os.setxattr(bomb, "user.large", b"v" * 65536)
    names = sorted(os.listxattr(bomb))
    assert len(names) > 50
    for name in names[:spare]:
        os.removexattr(bomb, name)
    names = names[spare:]
    with stack.open() as view:
        assert view.listxattr("bomb") == names
        try:
            view.chmod("bomb", 0o600)
            copied = True
        except OSError:
            copied = False
            assert spare == 0, "there is room for the mark of the copy"
        assert (stack.upper / "bomb").exists() == copied
        assert not copied or set(names) <= set(os.listxattr(stack.upper / "bomb"))
        view.write("other", b"O")
        assert view.read("other") == b"Other"
    assert stack.work_names() == []


@pytest.mark.parametrize("size", [1 << 40, (1 << 62) + 1, (1 << 63) - 1])
def test_files_larger_than_any_disk(stack: Stack, size: int) -> None:
    """Holes are neither read nor written; what upper cannot hold is EFBIG, and leaves nothing."""
    with loop_fs("tmpfs", directory=stack.base) as where:
        (where / "layer").mkdir()
        with (where / "layer" / "huge").open("wb") as huge:
            huge.write(b"begin")
            try:
                huge.truncate(size)
            except OSError:
                pytest.skip("tmpfs has no such files")
        stack.lowers.append(where / "layer")
        with stack.open() as view:
            assert view.stat("huge").st_size == size
            with view.opened("huge") as handle:
                assert view.read_handle(handle, size - 10, 10) == bytes(10)
            if _holds(stack.upper, size):
                view.chmod("huge", 0o600)
                assert (stack.upper / "huge").stat().st_size == size
                assert (stack.upper / "huge").stat().st_blocks < 10_000
            else:
                with pytest.raises(OSError) as failure:
                    view.chmod("huge", 0o600)
                assert failure.value.errno == errno.EFBIG
                assert not (stack.upper / "huge").exists()
            assert stack.work_names() == []
        stack.lowers.clear()


def _holds(place: Path, size: int) -> bool:
    try:
        with (place / "try").open("wb") as file:
            file.truncate(size)
        return True
    except OSError:
        return False
    finally:
        (place / "try").unlink()


DEPTH = 2500


def dig(top: Path) -> None:
    """Directories in directories, deeper than calls may be nested; a file in the innermost."""
    at = os.open(top, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


@pytest.fixture
def deep(stack: Stack) -> Iterator[Stack]:
    """A stack whose directories can be removed however deep they are."""
    yield stack
    subprocess.run(["rm", "-rf", *stack.lowers, stack.upper, stack.work], check=True)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_tree_deeper_than_calls_may_be_nested(deep: Stack, few_descriptors: None) -> None:
    stack = deep
    stack.layers({})
    dig(stack.lowers[0])
    with stack.open() as view:
        numbers = [ROOT_INO]
        for _ in range(DEPTH):
            entry = complete(view.union.lookup, numbers[-1], b"d")
            assert entry is not None
            numbers.append(entry[0].ino)
            view.known[numbers[-1]] += 1
            view.union.fs.dirfds.trim()
        for number in (numbers[-1], numbers[DEPTH // 2], numbers[-1]):
            view.union.fs.dirfds.close_all()
            assert complete(view.union.lookup, number, b"none") is None
            assert len(view.union.fs.dirfds) < 200
        assert complete(view.union.lookup, numbers[-1], b"leaf") is not None


def test_a_change_below_more_directories_than_calls_may_be_nested(deep: Stack) -> None:
    stack = deep
    stack.layers({})
    dig(stack.lowers[0])
    with stack.open() as view:
        number = ROOT_INO
        for _ in range(DEPTH):
            entry = complete(view.union.lookup, number, b"d")
            assert entry is not None
            number = entry[0].ino
            view.known[number] += 1
        complete(view.union.mkdir, number, b"new", 0o755, view.caller)
        assert complete(view.union.lookup, number, b"new") is not None


def test_a_work_directory_deeper_than_calls_may_be_nested_is_cleared(
    deep: Stack, few_descriptors: None
) -> None:
    stack = deep
    stack.layers({"f": "f"})
    (stack.work / "work/#1").mkdir(parents=True)
    dig(stack.work / "work/#1")
    with stack.open() as view:
        assert stack.work_names() == []
        assert view.read("f") == b"f"


@pytest.mark.parametrize("steps", [1, 1500, 30_000])
def test_a_path_of_a_metacopy_with_many_steps(stack: Stack, steps: int) -> None:
    """It is looked for in the data-only layers one directory after the other."""
    redirect = "/" + "x/" * steps + "data"
    stack.layers({"m": file(size=4, metacopy="")})
    try:
        os.setxattr(stack.lowers[0] / "m", TRUSTED + "redirect", redirect.encode())
    except OSError:
        pytest.skip("this filesystem stores no such long value")
    stack.data({"x": {"data": "data"}})
    with stack.open(metacopy=True) as view:
        if steps == 1:
            assert view.read("m") == b"data"
        else:
            with pytest.raises(FileNotFoundError):
                view.read("m")
