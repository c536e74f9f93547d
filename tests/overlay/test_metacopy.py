"""Metacopy files: metadata in one layer, data in a lower one. Their data is never zeros.

Reading them in every layer, what chmod and friends write with metacopy=on, bringing the data up later, and
marks that are broken, which answer EIO.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View
from tests.overlay.trees import TIME_NS, WHITEOUT, Obj, Tree, disk, file, marks
from tests.support.mounts import needs_overlayfs
from unionfs.linux.syscalls import RENAME_EXCHANGE
from unionfs.overlay.attr import Changes
from unionfs.overlay.wait import Wait, complete

DATA = "the data of a lower file " * 400


SIZE = len(DATA)


def meta(**more: str) -> Obj:
    return file(mode=0o600, size=SIZE, metacopy="", marked=more)


Layers = tuple[Tree, ...]


READ: dict[str, tuple[Layers, str]] = {
    "upper": (({"f": meta()}, {"f": DATA}), "f"),
    "upper, skipping a layer": (({"f": meta()}, {}, {"f": DATA}), "f"),
    "top lower": (({}, {"f": meta()}, {"f": DATA}), "f"),
    "middle lower": (({}, {"pad": ""}, {"f": meta()}, {"f": DATA}), "f"),
    "upper and top lower": (({"f": meta()}, {"f": meta()}, {"f": DATA}), "f"),
    "three of them": (({"f": meta()}, {"f": meta()}, {"f": meta()}, {"f": DATA}), "f"),
    "relative redirect": (({"g": meta(redirect="f"), "f": WHITEOUT}, {"f": DATA, "g": "stranger"}), "g"),
    "absolute redirect": (
        ({"g": meta(redirect="/d/f"), "d": {"f": WHITEOUT}}, {"d": {"f": DATA}, "g": "stranger"}),
        "g",
    ),
    "redirect in the top lower": (
        ({}, {"g": meta(redirect="/d/f"), "d": {"f": WHITEOUT}}, {"d": {"f": DATA}}),
        "g",
    ),
    "chain of redirects": (
        (
            {"h": meta(redirect="/g"), "g": WHITEOUT},
            {"g": meta(redirect="/d/f"), "d": {"f": WHITEOUT}},
            {"d": {"f": DATA}, "h": "stranger"},
        ),
        "h",
    ),
    "relative, then absolute": (
        (
            {"h": meta(redirect="g"), "g": WHITEOUT},
            {"g": meta(redirect="/d/f"), "d": {"f": WHITEOUT}},
            {"d": {"f": DATA}},
        ),
        "h",
    ),
    "in a directory": (({"d": {"f": meta()}}, {"d": {"f": DATA}}), "d/f"),
    "in a directory that only upper has": (
        ({"n": {"f": meta(redirect="/f")}, "f": WHITEOUT}, {"f": DATA}),
        "n/f",
    ),
}


@needs_overlayfs
@pytest.mark.parametrize("option", [False, True], ids=["metacopy=off", "metacopy=on"])
@pytest.mark.parametrize("case", READ)
def test_data_comes_from_below(stack: Stack, case: str, option: bool) -> None:
    layers, path = READ[case]
    stack.layers(*layers[1:], upper=layers[0])
    with stack.open(metacopy=option) as view:
        assert view.read(path) == DATA.encode()
        assert view.stat(path).st_mode & 0o777 == 0o600
        assert view.stat(path).st_size == SIZE
        tree = view.tree()
    assert tree == stack.kernel("metacopy=on", "redirect_dir=on")


@pytest.mark.parametrize("option", [False, True], ids=["metacopy=off", "metacopy=on"])
@pytest.mark.parametrize("case", READ)
def test_write_brings_the_data_up(stack: Stack, case: str, option: bool) -> None:
    layers, path = READ[case]
    stack.layers(*layers[1:], upper=layers[0])
    with stack.open(metacopy=option) as view:
        view.write(path, b"NEW", 4)
        assert view.read(path) == b"the NEWa" + DATA.encode()[8:]
        assert view.stat(path).st_mode & 0o777 == 0o600
    real = stack.upper / path
    assert "metacopy" not in marks(real)
    assert real.read_bytes() == b"the NEWa" + DATA.encode()[8:]
    assert stack.work_names() == []
    with stack.open(metacopy=option) as view:
        assert view.read(path) == b"the NEWa" + DATA.encode()[8:]


BROKEN: dict[str, Layers] = {
    "nothing below": ({"f": meta()}, {"pad": ""}),
    "nothing below in a lower": ({}, {"f": meta()}, {"pad": ""}),
    "in the bottom": ({}, {"pad": ""}, {"f": meta()}),
    "a directory below": ({"f": meta()}, {"f": {}}),
    "a whiteout below": ({"f": meta()}, {"f": WHITEOUT}, {"f": DATA}),
    "redirect to nothing": ({"f": meta(redirect="/nowhere")}, {"f": "stranger"}),
    "redirect through a file": ({"f": meta(redirect="/x/y")}, {"f": "stranger", "x": ""}),
}


@needs_overlayfs
@pytest.mark.parametrize("option", [False, True], ids=["metacopy=off", "metacopy=on"])
@pytest.mark.parametrize("case", BROKEN)
def test_metacopy_without_data_is_an_error(stack: Stack, case: str, option: bool) -> None:
    layers = BROKEN[case]
    stack.layers(*layers[1:], upper=layers[0])
    before = disk(stack.upper)
    with stack.open(metacopy=option) as view:
        for act in (
            lambda: view.exists("f"),
            lambda: view.read("f"),
            lambda: view.chmod("f", 0o644),
            lambda: view.write("f", b"x"),
        ):
            with pytest.raises(OSError) as failure:
                act()
            assert failure.value.errno == errno.EIO
        assert "f" in view.ls()
    assert disk(stack.upper) == before
    assert stack.work_names() == []


def has_data(path: Path) -> bool:
    """Whether a file is more than one hole."""
    with path.open("rb") as opened:
        try:
            os.lseek(opened.fileno(), 0, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return False
            raise
    return True


CHANGES = {
    "chmod": lambda view: view.chmod("d/f", 0o600),
    "chown": lambda view: view.change("d/f", uid=7, gid=8),
    "utimes": lambda view: view.change("d/f", atime_ns=5, mtime_ns=6),
    "setxattr": lambda view: view.setxattr("d/f", "user.a", b"1"),
    "link": lambda view: view.link("d/f", "d/g"),
    "rename": lambda view: view.rename("d/f", "d/g"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_metadata_change_copies_no_data(stack: Stack, change: str) -> None:
    stack.layers({"d": {"f": file(DATA, xattrs={"user.b": b"2"})}})
    with stack.open(metacopy=True) as view:
        CHANGES[change](view)
        name = "d/f" if change != "rename" else "d/g"
        assert view.read(name) == DATA.encode()
        assert view.stat(name).st_size == SIZE
    real = stack.upper / name
    assert marks(real)["metacopy"] == b""
    assert not has_data(real)
    assert real.stat().st_size == SIZE
    assert os.getxattr(real, "user.b") == b"2"
    wanted = {"link": b"/d/f", "rename": b"f"}
    assert marks(real).get("redirect") == wanted.get(change)
    with stack.open(metacopy=True) as view:
        assert view.read(name) == DATA.encode()


@needs_overlayfs
def test_what_is_written_kernel_overlayfs_reads(stack: Stack) -> None:
    lower = dict.fromkeys("abcdef", DATA)
    stack.layers({"d": lower, "e": {}})
    with stack.open(metacopy=True) as view:
        view.chmod("d/a", 0o600)
        view.rename("d/b", "d/B")
        view.rename("d/c", "e/c")
        view.link("d/d", "e/d")
        view.rename("d/e", "d/f", RENAME_EXCHANGE)
        view.rename("d", "D")
        view.rename("D/a", "a")
        tree = view.tree()
        assert {line.split("'")[1] for path, line in tree.items() if "file" in line} == {DATA}
    assert tree == stack.kernel("metacopy=on", "redirect_dir=on")
    with stack.open(metacopy=True) as view:
        assert view.tree() == tree


def test_metacopy_off_copies_data(stack: Stack) -> None:
    stack.layers({"f": DATA})
    with stack.open() as view:
        view.chmod("f", 0o600)
    assert disk(stack.upper) == {"f": f"file {DATA!r} origin"}


def test_truncate_to_nothing_brings_no_data_up(stack: Stack) -> None:
    stack.layers({"f": DATA, "g": DATA, "h": DATA})
    with stack.open(metacopy=True) as view:
        for name in "fgh":
            view.chmod(name, 0o600)
        inode = view.file("f")
        with view.opened("f", os.O_WRONLY | os.O_TRUNC):
            assert not inode.metacopy
        view.change("g", size=0)
        view.change("h", size=3)
        assert [view.read(name) for name in "fgh"] == [b"", b"", DATA[:3].encode()]
    assert disk(stack.upper) == {
        "f": "file '' origin",
        "g": "file '' origin",
        "h": "file 'the' origin",
    }


def test_bringing_data_up_changes_no_times(stack: Stack) -> None:
    stack.layers({"f": DATA})
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o640)
        with view.opened("f", os.O_WRONLY):
            st = view.stat("f")
            assert (st.st_mtime_ns, st.st_atime_ns) == (TIME_NS, TIME_NS)
    assert (stack.upper / "f").read_text() == DATA
    assert "metacopy" not in marks(stack.upper / "f")


def start(view: View, path: str) -> Wait:
    """Ask for the data of a metacopy and stop where the slow work would begin."""
    with pytest.raises(Wait) as wait:
        view.union.open_file(view.ino(path), os.O_WRONLY, view.caller)
    return wait.value


@pytest.mark.parametrize("when", ["before the copy", "after the copy"])
@pytest.mark.parametrize("change", ["utimes", "chmod", "chown", "setxattr"])
def test_change_while_data_comes_up_is_kept(stack: Stack, change: str, when: str) -> None:
    stack.layers({"f": DATA})
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o640)
        task = start(view, "f").task
        ran = when == "after the copy"
        if ran:
            task.run()

        def act() -> None:
            if change == "utimes":
                view.union.setattr(view.ino("f"), Changes(atime_ns=5, mtime_ns=6), view.caller, None)
            elif change == "chmod":
                view.union.setattr(view.ino("f"), Changes(mode=0o611), view.caller, None)
            elif change == "chown":
                view.union.setattr(view.ino("f"), Changes(uid=3, gid=4), view.caller, None)
            else:
                view.union.setxattr(view.ino("f"), b"user.new", b"n", 0, view.caller)

        pending = False
        try:
            act()
        except Wait as wait:
            pending = wait.task is task
        if not ran:
            task.run()
        task.finish(None)
        if pending:
            complete(act)
        st = view.stat("f")
        assert {
            "utimes": (st.st_atime_ns, st.st_mtime_ns) == (5, 6),
            "chmod": st.st_mode & 0o7777 == 0o611,
            "chown": (st.st_uid, st.st_gid) == (3, 4),
            "setxattr": change == "setxattr" and view.getxattr("f", "user.new") == b"n",
        }[change]
        assert view.read("f") == DATA.encode()
    assert "metacopy" not in marks(stack.upper / "f")


@pytest.mark.parametrize("ran", [False, True])
def test_failed_data_copy_leaves_the_metacopy(stack: Stack, ran: bool) -> None:
    stack.layers({"f": DATA})
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o640)
        task = start(view, "f").task
        if ran:
            task.run()
        task.finish(OSError(errno.ENOSPC, "full"))
        assert view.read("f") == DATA.encode()
        assert view.stat("f").st_mtime_ns == TIME_NS
        assert view.file("f").metacopy
        assert view.file("f").pending is None
        view.write("f", b"T")
        assert view.read("f") == b"T" + DATA.encode()[1:]
    assert stack.work_names() == []


def test_unlink_of_a_metacopy_while_its_data_comes_up(stack: Stack) -> None:
    stack.layers({"f": DATA})
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o640)
        task = start(view, "f").task
        reader = view.open("f")
        view.unlink("f")
        task.run()
        task.finish(None)
        assert not view.exists("f")
        assert view.read_handle(reader) == DATA.encode()
        view.union.release(reader)
        view.forget_all()
        assert view.union.stats()["inodes"] == 1
    assert disk(stack.upper) == {"f": "whiteout"}


def test_metacopy_in_a_lower_is_copied_up_with_its_data(stack: Stack) -> None:
    stack.layers({"f": meta()}, {"f": DATA})
    with stack.open(metacopy=False) as view:
        view.chmod("f", 0o611)
        assert view.read("f") == DATA.encode()
    assert disk(stack.upper) == {"f": f"file {DATA!r} origin"}


@needs_overlayfs
def test_metacopy_in_a_lower_is_copied_up_as_a_metacopy(stack: Stack) -> None:
    stack.layers({"f": meta(), "g": meta(redirect="/d/G")}, {"f": DATA, "d": {"G": DATA}})
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o611)
        view.chmod("g", 0o611)
        assert view.read("f") == view.read("g") == DATA.encode()
        tree = view.tree()
    assert marks(stack.upper / "f")["metacopy"] == b""
    assert "redirect" not in marks(stack.upper / "f")
    with stack.open(metacopy=True) as view:
        assert view.tree() == tree
    assert stack.kernel("metacopy=on", "redirect_dir=on") == tree


def test_userxattr_follows_no_metacopy(stack: Stack) -> None:
    stack.layers({"f": DATA}, upper={"f": file(size=SIZE)})
    os.setxattr(stack.upper / "f", "user.overlay.metacopy", b"")
    with stack.open(userxattr=True) as view, pytest.raises(PermissionError):
        view.exists("f")


def test_empty_file_is_no_metacopy_that_reads_wrong(stack: Stack) -> None:
    stack.layers({"f": ""})
    with stack.open(metacopy=True) as view:
        view.chmod("f", 0o600)
        assert view.read("f") == b""
        view.write("f", b"x")
        assert view.read("f") == b"x"
    assert disk(stack.upper) == {"f": "file 'x' origin"}
