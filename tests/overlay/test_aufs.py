"""`whiteouts=aufs`: deletions as `.wh.NAME` and `.wh..wh..opq`, with the tree that overlayfs would show.

What each operation leaves, the same errors and trees as kernel overlayfs for every rename, and uppers in
which both kinds of whiteouts lie.
"""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.overlay.aufs_layers import LOWER, MARK, UPPER, Act, tmpfile
from tests.overlay.rig import Stack, remove, seen, steps
from tests.overlay.test_rename import CASES, FLAGS, WHERE, rename_both
from tests.overlay.test_rename import layers as rename_layers
from tests.overlay.trees import TIME_NS, WHITEOUT, Obj, Spec, Tree, build, directory, disk, file
from tests.support.mounts import needs_overlayfs, overlayfs
from unionfs.linux.syscalls import RENAME_EXCHANGE

UNTOUCHED = {
    "f": "file 'F'",
    "m": "dir",
    "m/up": "file 'up'",
    "own": "dir",
    "own/o": "file 'o'",
    "u": "file 'u'",
}


# What upper holds after it, where it is not as before; None: nothing there.
OPERATIONS: dict[str, tuple[Act, dict[str, str | None]]] = {
    "unlink of a lower file": (lambda v: v.unlink("g"), {".wh.g": MARK}),
    "unlink of both": (lambda v: v.unlink("f"), {"f": None, ".wh.f": MARK}),
    "unlink of upper's": (lambda v: v.unlink("u"), {"u": None}),
    "unlink in a lower directory": (lambda v: v.unlink("dir/a"), {"dir": "dir", "dir/.wh.a": MARK}),
    "rmdir of a lower directory": (lambda v: v.rmdir("empty"), {".wh.empty": MARK}),
    "rm -r of a lower directory": (lambda v: remove(v, "dir"), {".wh.dir": MARK}),
    "rm -r of a merged directory": (
        lambda v: remove(v, "m"),
        {"m": None, "m/up": None, ".wh.m": MARK},
    ),
    "rm -r of upper's directory": (lambda v: remove(v, "own"), {"own": None, "own/o": None}),
    "made again": (steps(lambda v: v.unlink("g"), lambda v: v.create("g", b"new")), {"g": "file 'new'"}),
    "a link instead": (
        steps(lambda v: v.unlink("g"), lambda v: v.link("u", "g")),
        {"g": "file 'u'"},
    ),
    "a symlink instead": (
        steps(lambda v: v.unlink("g"), lambda v: v.symlink("there", "g")),
        {"g": "link 'there'"},
    ),
    "a nameless file instead": (
        steps(lambda v: v.unlink("g"), lambda v: tmpfile(v, "", "g")),
        {"g": "file ''"},
    ),
    "a directory instead of a file": (
        steps(lambda v: v.unlink("g"), lambda v: v.mkdir("g")),
        {"g": "dir opaque", "g/.wh..wh..opq": MARK},
    ),
    "a directory instead of a directory": (
        steps(lambda v: remove(v, "dir"), lambda v: v.mkdir("dir"), lambda v: v.create("dir/b")),
        {"dir": "dir opaque", "dir/.wh..wh..opq": MARK, "dir/b": "file ''"},
    ),
    "gone again": (
        steps(lambda v: remove(v, "dir"), lambda v: v.mkdir("dir"), lambda v: v.rmdir("dir")),
        {".wh.dir": MARK},
    ),
    "mkdir": (lambda v: v.mkdir("n"), {"n": "dir"}),
    "rename of a lower file": (
        lambda v: v.rename("g", "moved"),
        {".wh.g": MARK, "moved": "file 'g'"},
    ),
    "rename of both": (lambda v: v.rename("f", "moved"), {"f": None, ".wh.f": MARK, "moved": "file 'F'"}),
    "rename onto a mark": (
        steps(lambda v: v.unlink("g"), lambda v: v.rename("u", "g")),
        {"u": None, "g": "file 'u'"},
    ),
    "rename and back": (
        steps(lambda v: v.rename("g", "moved"), lambda v: v.rename("moved", "g")),
        {"g": "file 'g'"},
    ),
    "rename of a directory onto a mark": (
        steps(lambda v: v.unlink("g"), lambda v: v.rename("own", "g")),
        {"own": None, "own/o": None, "g": "dir opaque", "g/.wh..wh..opq": MARK, "g/o": "file 'o'"},
    ),
    "rename of a directory over an empty one": (
        lambda v: v.rename("own", "empty"),
        {
            "own": None,
            "own/o": None,
            "empty": "dir opaque",
            "empty/.wh..wh..opq": MARK,
            "empty/o": "file 'o'",
        },
    ),
    "rename of a directory over one of marks": (
        steps(
            lambda v: v.unlink("dir/a"),
            lambda v: v.unlink("dir/b"),
            lambda v: v.rename("own", "dir"),
        ),
        {"own": None, "own/o": None, "dir": "dir opaque", "dir/.wh..wh..opq": MARK, "dir/o": "file 'o'"},
    ),
    "exchange": (lambda v: v.rename("f", "u", RENAME_EXCHANGE), {"f": "file 'u'", "u": "file 'F'"}),
    "exchange of a file and a directory": (
        lambda v: v.rename("f", "own", RENAME_EXCHANGE),
        {"own": "file 'F'", "own/o": None, "f": "dir opaque", "f/.wh..wh..opq": MARK, "f/o": "file 'o'"},
    ),
}


def sans_copied(held: dict[str, str]) -> dict[str, str]:
    """Without what tells that something was copied up."""
    return {name: line.replace(" impure", "").replace(" origin", "") for name, line in held.items()}


@pytest.mark.parametrize("case", OPERATIONS)
def test_what_is_left(either: Stack, case: str) -> None:
    stack = either.layers(LOWER, {"pad": ""}, upper=UPPER)
    act, left = OPERATIONS[case]
    with stack.open(whiteouts="aufs") as view:
        act(view)
        tree = view.tree()
        view.forget_all()
        assert view.tree() == tree
        assert not [name for name in tree if ".wh." in name]
    held = {name: line for name, line in ({**UNTOUCHED, **left}).items() if line is not None}
    assert sans_copied(disk(stack.upper)) == held
    assert stack.work_names() == []
    with stack.open(whiteouts="aufs") as view:
        assert view.tree() == tree
    with stack.open() as view:
        assert view.tree() == tree, "the option does not matter to who reads"


def aufs(spec: Spec) -> Spec:
    """The same layer with AUFS's whiteouts."""
    if isinstance(spec, Obj) and spec.entries:
        return Obj(
            spec.mode,
            entries=_aufs_entries(spec.entries),
            marks=spec.marks,
            xattrs=spec.xattrs,
            owner=spec.owner,
        )
    return spec if isinstance(spec, (str, Obj)) else _aufs_entries(spec)


def _aufs_entries(tree: Tree) -> Tree:
    return {
        (f".wh.{name}" if spec == WHITEOUT else name): ("" if spec == WHITEOUT else aufs(spec))
        for name, spec in tree.items()
    }


@needs_overlayfs
@pytest.mark.parametrize("marks", ["devices", "files"])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("flag", FLAGS)
def test_every_rename_as_overlayfs(stack: Stack, where: str, flag: str, marks: str) -> None:
    old, new = WHERE[where]
    upper, lower = rename_layers(where)
    stack.layers(lower, {"pad": ""}, upper=_aufs_entries(upper) if marks == "files" else upper)
    kernel_upper, kernel_work = build(stack.base / "kernel-upper", upper), stack.base / "kernel-work0"
    kernel_work.mkdir()
    codes = []
    options = ["redirect_dir=off", "index=off", "volatile"]
    with (
        overlayfs(stack.lowers, kernel_upper, kernel_work, stack.merged, options=options) as merged,
        stack.open(whiteouts="aufs", redirect_dir="off") as view,
    ):
        for number in range(len(CASES)):
            one, other = f"c{number}/{old}", f"c{number}/{new}"
            codes.append((CASES[number], *rename_both(view, merged, one, other, FLAGS[flag])))
        tree, kernel_tree = view.tree(), seen(merged)
    assert [case for case in codes if case[1] != case[2]] == []
    assert sans_times(tree) == sans_times(kernel_tree)
    if marks == "files":
        assert "whiteout" not in disk(stack.upper).values()
    assert stack.work_names() == []
    with stack.open(whiteouts="aufs", redirect_dir="off") as view:
        assert view.tree() == tree


def sans_times(tree: dict[str, str]) -> dict[str, list[str]]:
    """Without the times of directories, which a change of names in them sets to now."""
    found = {}
    for name, line in tree.items():
        words = line.split(" ")
        found[name] = words[:4] if line.startswith("dir") else words
    return found


def test_a_directory_that_moves_keeps_its_times(stack: Stack) -> None:
    stack.layers(LOWER, upper=UPPER)
    with stack.open(whiteouts="aufs") as view:
        view.rename("own", "empty")
        assert view.stat("empty").st_mtime_ns == TIME_NS


def test_a_directory_that_is_opaque_by_its_attribute_is_marked_when_it_moves(stack: Stack) -> None:
    """With an index a new directory is made opaque at once, which is no mark; a lower one may come below."""
    stack.layers(LOWER, upper=UPPER)
    with stack.open(whiteouts="aufs", index=True) as view:
        view.mkdir("new")
        remove(view, "dir")
        view.rename("new", "dir")
        assert view.ls("dir") == []
    assert disk(stack.upper)["dir/.wh..wh..opq"] == MARK


def test_a_merged_directory_is_not_renamed(stack: Stack) -> None:
    stack.layers(LOWER, upper=UPPER)
    with stack.open(whiteouts="aufs") as view:
        for path in ("m", "dir"):
            with pytest.raises(OSError) as caught:
                view.rename(path, "elsewhere")
            assert caught.value.errno == errno.EXDEV
    assert sans_copied(disk(stack.upper)) == UNTOUCHED


def test_devices_and_files_in_one_upper(either: Stack) -> None:
    """An upper that was mounted without the option, and one of fuse-overlayfs's mounted without it."""
    stack = either.layers({"a": "a", "b": "b", "c": {"x": ""}, "d": {"x": ""}})
    for whiteouts in ("overlay", "aufs"):
        with stack.open(whiteouts=whiteouts) as view:
            for name in ("a", "b") if whiteouts == "overlay" else ("c", "d"):
                if name in "ab":
                    view.unlink(name)
                else:
                    remove(view, name)
            assert view.ls() == (["c", "d"] if whiteouts == "overlay" else [])
    assert disk(stack.upper) == {"a": "whiteout", "b": "whiteout", ".wh.c": MARK, ".wh.d": MARK}
    with stack.open(whiteouts="aufs") as view:
        view.create("a", b"A")
        view.mkdir("b")
        assert view.ls("b") == []
    with stack.open() as view:
        view.mkdir("c")
        view.create("d", b"D")
        assert view.ls() == ["a", "b", "c", "d"]
        assert view.ls("c") == []
    held = sans_copied(disk(stack.upper))
    assert held == {
        "a": "file 'A'",
        "b": "dir opaque",
        "b/.wh..wh..opq": MARK,
        "c": "dir opaque",
        "d": "file 'D'",
    }, "no mark stays beside what it hid: fuse-overlayfs would still hide it"


def test_files_that_show_which_option_it_was(stack: Stack) -> None:
    """One file for all marks, as for devices, and nothing in it."""
    stack.layers({"a": file("a"), "b": directory({})})
    with stack.open(whiteouts="aufs") as view:
        view.unlink("a")
        view.rmdir("b")
    one, two = (os.stat(stack.upper / name) for name in (".wh.a", ".wh.b"))
    assert (one.st_ino, one.st_size, stat.S_IFMT(one.st_mode)) == (two.st_ino, 0, stat.S_IFREG)
