"""Data-only layers: data for the metacopies of lowers, reached by absolute redirects and by no name.

What kernel overlayfs answers to the same layers is asked of it where one is at hand.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import TIME_NS, USER, WHITEOUT, Obj, Tree, build, disk, file, marks, symlink
from tests.support.mounts import needs_overlayfs
from unionfs.overlay.attr import blocks

DATA = "what an object holds " * 500
SIZE = len(DATA)


def meta(**more: str) -> Obj:
    return file(mode=0o600, size=SIZE, metacopy="", marked=more)


OBJECTS: Tree = {"objects": {"ab": {"cd": file(DATA, mode=0o444, owner=(7, 7))}}}
POINTER = meta(redirect="/objects/ab/cd")

READ: dict[str, tuple[tuple[Tree, ...], tuple[Tree, ...]]] = {
    "one lower": (({}, {"f": POINTER}), (OBJECTS,)),
    "in a directory": (({}, {"d": {"f": POINTER}}), (OBJECTS,)),
    "the second layer has it": (({}, {"f": POINTER}), ({"objects": {"ab": {}}}, OBJECTS)),
    "the first layer goes before": (
        ({}, {"f": POINTER}),
        (OBJECTS, {"objects": {"ab": {"cd": "stranger"}}}),
    ),
    "a symlink in the first layer": (
        ({}, {"f": POINTER}),
        ({"objects": symlink("elsewhere"), "elsewhere": {"ab": {"cd": "stranger"}}}, OBJECTS),
    ),
    "whiteouts mean nothing there": (({}, {"f": POINTER}), ({"objects": WHITEOUT}, OBJECTS)),
    "a lower has the path": (
        ({}, {"f": POINTER}, {"objects": {"ab": {"cd": DATA}}}),
        ({"objects": {"ab": {"cd": "stranger"}}},),
    ),
    "past another lower": (({}, {"f": POINTER}, {"f": "stranger"}), (OBJECTS,)),
    "the bottom of two": (({}, {"g": ""}, {"f": POINTER}), (OBJECTS,)),
    "upper's metacopy above": (({"f": meta()}, {"f": POINTER}), (OBJECTS,)),
    "upper's metacopy by redirect": (({"g": meta(redirect="/f"), "f": WHITEOUT}, {"f": POINTER}), (OBJECTS,)),
    "two metacopies": (({}, {"f": meta(redirect="/g")}, {"g": POINTER}), (OBJECTS,)),
    "digest in the mark": (
        ({}, {"f": file(size=SIZE, metacopy="\0\x24\0\x01" + "d" * 32, redirect="/objects/ab/cd")}),
        (OBJECTS,),
    ),
}


def path_of(case: str) -> str:
    """The path at which the union shows the data."""
    return {"in a directory": "d/f", "upper's metacopy by redirect": "g"}.get(case, "f")


@needs_overlayfs
@pytest.mark.parametrize("option", [False, True], ids=["metacopy=off", "metacopy=on"])
@pytest.mark.parametrize("case", READ)
def test_data_comes_from_there(either: Stack, case: str, option: bool) -> None:
    stack = either
    layers, data = READ[case]
    stack.layers(*layers[1:], upper=layers[0]).data(*data)
    before = {layer: disk(layer) for layer in (*stack.lowers, *stack.data_lowers)}
    with stack.open(metacopy=option) as view:
        path = path_of(case)
        assert view.read(path) == DATA.encode()
        inode = view.file(path)
        assert inode.metacopy
        assert (inode.data_place()[0].layer.idx == len(stack.lowers)) == (data[0] is OBJECTS)
        tree = view.tree()
    assert tree == stack.kernel("metacopy=on", "redirect_dir=on")
    assert before == {layer: disk(layer) for layer in before}


@pytest.mark.parametrize("option", [False, True], ids=["metacopy=off", "metacopy=on"])
@pytest.mark.parametrize("case", READ)
def test_a_write_brings_the_data_up(stack: Stack, case: str, option: bool) -> None:
    layers, data = READ[case]
    stack.layers(*layers[1:], upper=layers[0]).data(*data)
    path = path_of(case)
    with stack.open(metacopy=option) as view:
        view.chmod(path, 0o640)
        assert ("metacopy" in marks(stack.upper / path)) == (option or path in layers[0])
        view.write(path, b"NEW", 5)
        expected = DATA[:5].encode() + b"NEW" + DATA[8:].encode()
        assert view.read(path) == expected
    assert (stack.upper / path).read_bytes() == expected
    assert marks(stack.upper / path).keys() <= {"origin", "redirect"}
    assert stack.work_names() == []
    stack.data_lowers = []
    with stack.open() as view:
        assert view.read(path) == expected


MISSING: dict[str, tuple[Tree, int]] = {
    "nothing there": ({"objects": {}}, errno.ENOENT),
    "no directory there": ({}, errno.ENOENT),
    "a directory": ({"objects": {"ab": {"cd": {}}}}, errno.ENOENT),
    "a symlink": ({"objects": {"ab": {"cd": symlink("ef"), "ef": DATA}}}, errno.ENOENT),
    "a whiteout": ({"objects": {"ab": {"cd": WHITEOUT}}}, errno.ENOENT),
    "a file on the way": ({"objects": {"ab": ""}}, errno.ENOTDIR),
    "a symlink on the way": ({"objects": symlink("o"), "o": {"ab": {"cd": DATA}}}, errno.ELOOP),
}


@needs_overlayfs
@pytest.mark.parametrize("case", MISSING)
def test_missing_data_is_found_out_when_it_is_wanted(stack: Stack, case: str) -> None:
    layer, code = MISSING[case]
    stack.layers({"f": POINTER, "dir": {}}, upper={}).data({"objects": {}}, layer)

    def look(merged: Path) -> tuple[os.stat_result, list[int]]:
        got = []
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError) as caught:
                os.close(os.open(merged / "f", flags))
            got.append(caught.value.errno or 0)
        with pytest.raises(OSError) as caught:
            (merged / "f").chmod(0o644)
        got.append(caught.value.errno or 0)
        with pytest.raises(OSError) as caught:
            (merged / "f").rename(merged / "g")
        got.append(caught.value.errno or 0)
        return (merged / "f").stat(), got

    (stack.base / "kernel").mkdir()
    with stack.overlayfs(stack.base / "kernel", "metacopy=on", "volatile") as merged:
        theirs, codes = look(merged)
    assert codes == [code] * 5
    with stack.open(metacopy=True) as view:
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError) as caught, view.opened("f", flags):
                pass
            assert caught.value.errno == code
        with pytest.raises(OSError) as caught:
            view.chmod("f", 0o644)
        assert caught.value.errno == code
        with pytest.raises(OSError) as caught:
            view.rename("f", "g")
        assert caught.value.errno == code
        inode, st = view.union.getattr(view.ino("f"))
        assert (st.st_size, st.st_mode, blocks(inode, st)) == (SIZE, theirs.st_mode, theirs.st_blocks)
        # What needs no data of it works.
        view.unlink("f")
    assert disk(stack.upper).keys() == {"f"}


def test_their_names_do_not_show(either: Stack) -> None:
    stack = either.layers({"f": POINTER, "objects": {"other": "x"}}).data({**OBJECTS, "extra": "x"})
    with stack.open() as view:
        assert view.ls() == ["f", "objects"]
        assert view.ls("objects") == ["other"]
        assert not view.exists("extra")
        assert not view.exists("objects/ab")
        # Nothing is whited out, and nothing made opaque, for their sake.
        view.unlink("f")
        view.mkdir("extra")
    assert "extra" in disk(stack.upper)
    with stack.open() as view:
        assert view.ls("extra") == []


REFUSED: dict[str, tuple[Tree, ...]] = {
    "no redirect": ({"f": meta()},),
    "relative redirect": ({"f": meta(redirect="cd")},),
    "a lower's redirect, not its own": ({"g": meta(redirect="/f")}, {"f": meta()}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_only_a_lowers_own_absolute_redirect_leads_there(stack: Stack, case: str) -> None:
    layers = REFUSED[case]
    stack.layers(*layers).data({**OBJECTS, "cd": DATA, "f": DATA, "g": DATA})
    with stack.open() as view, pytest.raises(OSError) as caught:
        view.find(next(iter(layers[0])))
    assert caught.value.errno == errno.EIO


@needs_overlayfs
def test_an_upper_metacopy_does_not_lead_there_by_itself(stack: Stack) -> None:
    stack.layers({"pad": ""}, upper={"f": POINTER}).data(OBJECTS)
    work = stack.base / "kernel"
    work.mkdir()
    with (
        stack.overlayfs(work, "metacopy=on", "volatile") as merged,
        pytest.raises(OSError) as caught,
    ):
        (merged / "f").stat()
    assert caught.value.errno == errno.EIO
    with stack.open() as view, pytest.raises(OSError) as caught:
        view.find("f")
    assert caught.value.errno == errno.EIO


@needs_overlayfs
@pytest.mark.parametrize("place", [0, 1], ids=["top", "bottom"])
def test_with_userxattr_from_the_last_lower_only(stack: Stack, place: int) -> None:
    """ovl_check_follow_redirect(): whoever can write upper must not be able to read any file."""
    trees: list[Tree] = [{"pad": ""}, {"pad": ""}]
    trees[place] = {"f": POINTER, "d": {"f": POINTER}}
    stack.lowers = [
        build(stack.base / f"lower{number}", tree, prefix=USER) for number, tree in enumerate(trees)
    ]
    stack.data(OBJECTS)
    work = stack.base / "kernel"
    work.mkdir()

    def open_there(view: View | Path, path: str) -> bytes | int:
        try:
            return view.read(path) if isinstance(view, View) else (view / path).read_bytes()
        except OSError as error:
            return error.errno or 0

    with stack.overlayfs(work, "userxattr", "volatile") as merged:
        theirs = [open_there(merged, path) for path in ("f", "d/f")]
    with stack.open(userxattr=True, redirect_dir="nofollow") as view:
        assert [open_there(view, path) for path in ("f", "d/f")] == theirs
    assert theirs == ([DATA.encode()] * 2 if place else [errno.EPERM] * 2)


def test_userxattr_uppers_metacopy_is_refused(stack: Stack) -> None:
    stack.lowers = [build(stack.base / "lower", {"f": POINTER}, prefix=USER)]
    build(stack.upper, {"f": meta()}, prefix=USER)
    stack.data(OBJECTS)
    with (
        stack.open(userxattr=True, redirect_dir="nofollow") as view,
        pytest.raises(OSError) as caught,
    ):
        view.find("f")
    assert caught.value.errno == errno.EPERM


def test_files_of_one_directory_share_it(stack: Stack) -> None:
    tree: Tree = {str(number): file(size=1, metacopy="", redirect=f"/o/{number}") for number in range(5)}
    stack.layers(tree).data({"o": {str(number): str(number) for number in range(5)}})
    with stack.open() as view:
        for number in range(5):
            assert view.read(str(number)) == str(number).encode()
        places = {view.file(str(number)).data_place()[0] for number in range(5)}
        assert len(places) == 1
        [place] = places
        # A descriptor that was closed meanwhile is opened again.
        view.union.fs.dirfds.close(place)
        assert view.read("3") == b"3"


def test_numbers_are_the_metacopys(stack: Stack) -> None:
    stack.layers({"f": POINTER, "g": POINTER}).data(OBJECTS)
    with stack.open() as view:
        numbers = [view.ino("f"), view.ino("g")]
        assert numbers == [(stack.lowers[0] / name).stat().st_ino for name in "fg"]
        view.read("f")
        view.chmod("f", 0o640)
        view.write("g", b"x")
        assert numbers == [view.ino("f"), view.ino("g")]
        assert view.stat("f").st_mtime_ns == TIME_NS
