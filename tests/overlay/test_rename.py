"""rename: every source over every target, with every flag, redirect_dir on and off.

The expectation is kernel overlayfs's: the same rename is made there on a copy of the same layers, and its
errno, its tree and its upper layer (marks included, but for handles) must be the same as ours.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View, seen
from tests.overlay.trees import WHITEOUT, Spec, Tree, build, directory, disk
from tests.support.mounts import needs_overlayfs, overlayfs
from unionfs.linux.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2

SOURCES: dict[str, tuple[Spec | None, Spec | None]] = {
    # in upper, in the lower
    "upper file": ("up", None),
    "lower file": (None, "low"),
    "upper file over a lower": ("up", "low"),
    "upper file over a lower directory": ("up", {"low": ""}),
    "upper dir": ({"u": "u"}, None),
    "lower dir": (None, {"l": "l"}),
    "merged dir": ({"u": "u"}, {"l": "l"}),
    "opaque dir": (directory({"u": "u"}, opaque="y"), {"l": "l"}),
    "empty lower dir": (None, {}),
}

TARGETS: dict[str, tuple[Spec | None, Spec | None]] = {
    "nothing": (None, None),
    "whiteout": (WHITEOUT, "hidden"),
    "whiteout of a dir": (WHITEOUT, {"hidden": ""}),
    "upper file": ("there", None),
    "lower file": (None, "there"),
    "upper dir, empty": ({}, None),
    "lower dir, empty": (None, {}),
    "merged dir, empty": ({"w": WHITEOUT}, {"w": "w"}),
    "lower dir, full": (None, {"there": ""}),
    "upper dir, full": ({"there": ""}, None),
}

FLAGS = {"": 0, "noreplace": RENAME_NOREPLACE, "exchange": RENAME_EXCHANGE}
WHERE = {
    "same directory": ("d/src", "d/dst"),
    "other directory": ("d/src", "e/dst"),
    "into pure upper": ("d/src", "n/dst"),
}


CASES = [(source, target) for source in SOURCES for target in TARGETS]


def layers(where: str) -> tuple[Tree, Tree]:
    """Upper and lower with a directory for each case, for a mount costs more than a rename."""
    uppers: dict[str, Spec] = {}
    lowers: dict[str, Spec] = {}
    for number, (source, target) in enumerate(CASES):
        upper: dict[str, dict[str, Spec]] = {"d": {}, "e": {}, "n": {}}
        lower: dict[str, dict[str, Spec]] = {"d": {}, "e": {}}
        for path, (up, low) in zip(WHERE[where], (SOURCES[source], TARGETS[target]), strict=True):
            head, name = path.split("/")
            if low is not None and head in lower:
                lower[head][name] = low
            if up == TARGETS["merged dir, empty"][0] and head not in lower:
                up = {}  # whiteouts of nothing stop overlayfs with ENOTEMPTY here, and us not
            if up is not None:
                upper[head][name] = up
        uppers[f"c{number}"] = upper
        lowers[f"c{number}"] = lower
    return uppers, lowers


@needs_overlayfs
@pytest.mark.parametrize("redirect", ["on", "off"])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("flag", FLAGS)
def test_matrix(stack: Stack, where: str, flag: str, redirect: str) -> None:
    old, new = WHERE[where]
    upper, lower = layers(where)
    stack.layers(lower, {"pad": ""}, upper=upper)
    kernel_upper, kernel_work = build(stack.base / "kernel-upper", upper), stack.base / "kernel-work0"
    kernel_work.mkdir()
    options = [f"redirect_dir={redirect}", "index=off", "volatile"]
    codes: list[tuple[int, int]] = []
    with overlayfs(stack.lowers, kernel_upper, kernel_work, stack.merged, options=options) as merged:
        with stack.open(redirect_dir=redirect) as view:
            before, held_before = view.tree(), disk(stack.upper)
            for number in range(len(CASES)):
                one, other = f"c{number}/{old}", f"c{number}/{new}"
                codes.append(rename_both(view, merged, one, other, FLAGS[flag]))
            tree = view.tree()
            view.forget_all()
            assert view.union.stats()["inodes"] == 1
            assert view.tree() == tree
        kernel_tree = seen(merged)
    assert stack.work_names() == []
    held, kernel_held = comparable(disk(stack.upper)), comparable(disk(kernel_upper))
    read_by_kernel = stack.kernel(f"redirect_dir={redirect}")

    wrong: list[str] = []
    for number, (source, target) in enumerate(CASES):
        case = f"{source} -> {target}: "

        def part(tree: dict[str, str], start: str = f"c{number}/") -> dict[str, str]:
            return {path: line for path, line in tree.items() if path.startswith(start)}

        code, kernel_code = codes[number]
        if code != kernel_code:
            wrong.append(f"{case}errno {code}, overlayfs says {kernel_code}")
        elif code:
            # overlayfs may have copied up by then; we leave all as it was.
            wrong += differences(f"{case}failed, tree ", part(tree), part(before))
            wrong += differences(f"{case}failed, upper ", part(held), part(comparable(held_before)))
            continue
        wrong += differences(f"{case}tree ", timeless(part(tree)), timeless(part(kernel_tree)))
        wrong += differences(f"{case}upper ", part(held), part(kernel_held))
        wrong += differences(f"{case}read by overlayfs ", part(tree), part(read_by_kernel))
    assert not wrong, "\n".join(wrong)


def rename_both(view: View, merged: Path, one: str, other: str, flags: int) -> tuple[int, int]:
    """Rename in the union and on overlayfs: the errno of each, 0 where it was done."""
    code = kernel_code = 0
    try:
        view.rename(one, other, flags)
    except OSError as error:
        code = error.errno or -1
    try:
        renameat2(-1, os.fsencode(merged / one), -1, os.fsencode(merged / other), flags)
    except OSError as error:
        kernel_code = error.errno or -1
    return code, kernel_code


def comparable(held: dict[str, str]) -> dict[str, str]:
    """Without what overlayfs adds to directories for its own caches, whoever made them, and when."""
    return {
        path: line.replace(" impure", "").replace(" origin", "") if line.startswith("dir") else line
        for path, line in held.items()
    }


def timeless(tree: dict[str, str]) -> dict[str, str]:
    """Without mtimes, which two runs of one operation cannot share."""
    return {
        path: " ".join(word for word in line.split(" ") if not (word.isdigit() and len(word) > 12))
        for path, line in tree.items()
    }


def differences(what: str, ours: dict[str, str], kernels: dict[str, str]) -> list[str]:
    return [
        f"{what}{path}: {ours.get(path)} / overlayfs: {kernels.get(path)}"
        for path in sorted({*ours, *kernels})
        if ours.get(path) != kernels.get(path)
    ]


def test_flags(stack: Stack) -> None:
    stack.layers({"a": "a", "b": "b"})
    with stack.open() as view:
        for flags in (RENAME_WHITEOUT, RENAME_EXCHANGE | RENAME_NOREPLACE, 8, 1 << 20):
            with pytest.raises(OSError) as failure:
                view.rename("a", "b", flags)
            assert failure.value.errno == 22
        with pytest.raises(FileNotFoundError):
            view.rename("a", "none", RENAME_EXCHANGE)
        with pytest.raises(FileNotFoundError):
            view.rename("none", "a")
        with pytest.raises(FileExistsError):
            view.rename("a", "a", RENAME_NOREPLACE)
    assert disk(stack.upper) == {}


def test_rename_twice_keeps_one_redirect(stack: Stack) -> None:
    stack.layers({"d": {"in": "i"}, "e": {}})
    with stack.open() as view:
        view.rename("d", "d2")
        assert disk(stack.upper)["d2"] == "dir origin redirect=d"
        view.rename("d2", "d3")
        assert disk(stack.upper)["d3"] == "dir origin redirect=d"
        view.rename("d3", "e/d")
        assert disk(stack.upper)["e/d"] == "dir origin redirect=/d"
        view.rename("e/d", "d")
        assert view.read("d/in") == b"i"
        tree = view.tree()
    assert disk(stack.upper) == {
        "d": "dir origin redirect=/d",
        "e": "dir impure origin",
    }
    with stack.open() as view:
        assert view.tree() == tree


def test_parent_of_a_renamed_directory_is_renamed(stack: Stack) -> None:
    stack.layers({"a": {"b": {"c": {"f": "f"}}}, "x": {}})
    with stack.open() as view:
        view.rename("a/b/c", "a/b/C")
        view.rename("a/b", "a/B")
        view.rename("a/B/C", "x/C")
        view.rename("a", "A")
        assert view.read("x/C/f") == b"f"
        view.forget_all()
        assert view.read("x/C/f") == b"f"
        view.write("x/C/f", b"F")
        tree = view.tree()
    assert disk(stack.upper)["x/C"] == "dir impure origin redirect=/a/b/c"
    with stack.open() as view:
        assert view.tree() == tree
        assert sorted(tree) == ["A", "A/B", "x", "x/C", "x/C/f"]


def test_redirect_that_would_be_too_long(stack: Stack) -> None:
    name = "n" * 100
    stack.layers({name: {name: {name: {"f": "f"}}}, "x": {}})
    deep = f"{name}/{name}/{name}"
    before = stack.base / "before"
    before.mkdir()
    with stack.open() as view:
        with pytest.raises(OSError) as failure:
            view.rename(deep, "x/n")
        assert failure.value.errno == 18
        assert view.read(f"{deep}/f") == b"f"
        assert not view.exists("x/n")
        view.rename(deep, f"{name}/{name}/short")
        assert view.read(f"{name}/{name}/short/f") == b"f"


def test_directory_moved_below_a_lower_of_the_same_names(stack: Stack) -> None:
    """What moves must not merge with a stranger that lies at its new path."""
    stack.layers({"e": {"dst": {"stranger": ""}}, "d": {"src": {"low": ""}}}, upper={"own": {"o": ""}})
    with stack.open() as view:
        view.unlink("e/dst/stranger")
        view.rmdir("e/dst")
        view.rename("own", "e/dst")
        assert view.ls("e/dst") == ["o"]
        view.rename("e/dst", "own")
        view.rename("d/src", "e/dst")
        assert view.ls("e/dst") == ["low"]
        tree = view.tree()
        view.forget_all()
        assert view.tree() == tree
    with stack.open() as view:
        assert view.tree() == tree


def test_file_over_its_own_hard_link_does_nothing(stack: Stack) -> None:
    stack.layers({"a": "a"})
    with stack.open() as view:
        view.link("a", "b")
        view.rename("a", "b")
        assert view.ls() == ["a", "b"]
        assert view.nlink("a") == 2


def test_paths_of_open_children_follow(stack: Stack) -> None:
    stack.layers({"d": {"e": {"f": "f"}}}, upper={"u": {"v": {"w": "w"}}})
    with stack.open() as view:
        f, w, e = view.ino("d/e/f"), view.ino("u/v/w"), view.ino("d/e")
        view.rename("d", "D")
        view.rename("u", "D/u")
        view.union.fs.dirfds.close_all()
        assert view.ino("D/e/f") == f
        assert view.ino("D/u/v/w") == w
        assert view.union.getattr(e)[0].ino == e
        view.write("D/e/f", b"F")
        view.write("D/u/v/w", b"W")
        assert (view.read("D/e/f"), view.read("D/u/v/w")) == (b"F", b"W")
    assert disk(stack.upper)["D/e/f"] == "file 'F' origin"
