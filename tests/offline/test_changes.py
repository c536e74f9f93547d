"""What counts as a change, case by case: told by the lowers, and by upper's marks alone."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from testing.oracle.snapshot import layer_fingerprint
from tests.offline.change_cases import CASES, up
from tests.overlay.rig import Stack
from tests.overlay.trees import TIME_NS, USER, WHITEOUT, Obj, Tree, build, directory, file, node, symlink
from unionfs.errors import MountError
from unionfs.linux.fileattr import FS_APPEND_FL, get_flags, set_flags
from unionfs.offline.change import Change, Problem
from unionfs.offline.changes import changes, uses_userxattr


def found(stack: Stack, *, alone: bool = False, **options: Any) -> list[Change]:
    """The changes by path; no problem is expected."""
    listed: list[Change] = []
    for each in changes(str(stack.upper), None if alone else list(map(str, stack.lowers)), **options):
        assert isinstance(each, Change), each
        listed.append(each)
    return sorted(listed, key=lambda change: change.path)


def text(listed: list[Change]) -> str:
    return ", ".join(f"{change.kind} {os.fsdecode(change.path)}" for change in listed)


def by_path(listed: list[Change]) -> dict[str, Change]:
    return {os.fsdecode(change.path): change for change in listed}


@pytest.mark.parametrize("case", CASES)
def test_changes(stack: Stack, case: str) -> None:
    layers, by_lowers, by_marks = CASES[case]
    stack.layers(*layers[1:], upper=layers[0])
    before = [layer_fingerprint(os.fsencode(path)) for path in (stack.upper, *stack.lowers)]
    assert text(found(stack)) == by_lowers
    assert text(found(stack, alone=True)) == (by_lowers if by_marks is None else by_marks)
    assert [layer_fingerprint(os.fsencode(path)) for path in (stack.upper, *stack.lowers)] == before


def test_what_differs(stack: Stack) -> None:
    lower: Tree = {
        **dict.fromkeys(("mode", "owner", "xattrs", "flags", "size", "data", "mtime", "several"), "abc"),
        "type": "t",
        "target": symlink("a"),
        "device": node(stat.S_IFBLK | 0o600, os.makedev(1, 5)),
        "dir": {"f": "f"},
    }
    upper: Tree = {
        "mode": file("abc", mode=0o600),
        "owner": file("abc", owner=(0, 5)),
        "xattrs": file("abc", xattrs={"user.a": b""}),
        "flags": file("abc", protattr="i"),
        "size": "abcd",
        "data": "abd",
        "mtime": "abc",
        "several": file("x", mode=0o600, owner=(1, 1)),
        "type": symlink("t"),
        "target": symlink("b"),
        "device": node(stat.S_IFBLK | 0o600, os.makedev(1, 6)),
        "dir": up({"f": WHITEOUT}),
    }
    stack.layers(lower, upper=upper)
    os.utime(stack.upper / "mtime", ns=(TIME_NS, TIME_NS + 1))
    listed = by_path(found(stack))
    assert listed.pop("/dir/f").kind == "D"
    assert listed.pop("/dir").differs == ()
    assert listed.pop("/several").differs == ("mode", "owner", "size")
    assert {path: change.differs for path, change in listed.items()} == {path: (path[1:],) for path in listed}
    assert len(listed) == 10
    assert all(change.differs is None for change in found(stack, alone=True))


def test_what_a_lower_protects_upper_only_says_to_protect(stack: Stack) -> None:
    stack.layers({"f": "f", "g": "g"}, upper={"f": file("f", protattr="a"), "g": file("g", protattr="i")})
    with (stack.lowers[0] / "f").open() as lower:
        flags = get_flags(lower.fileno())
        try:
            set_flags(lower.fileno(), flags | FS_APPEND_FL)
        except OSError as error:
            pytest.skip(f"the filesystem has no chattr(1): {error}")
        try:
            assert text(found(stack)) == "C /g"
        finally:
            set_flags(lower.fileno(), flags)


def test_owners_that_an_attribute_tells(stack: Stack) -> None:
    """What is shown counts, and not what the inodes of an ordinary user's layers can have."""

    def told(text: str) -> dict[str, bytes]:
        return {"user.containers.override_stat": text.encode()}

    def pair(lower: str, upper: str, lower_mode: int, upper_mode: int) -> tuple[Obj, Obj]:
        return (
            file("x", mode=lower_mode, xattrs=told(lower)),
            file("x", mode=upper_mode, owner=(5, 5), xattrs=told(upper)),
        )

    names = {
        "same": pair("0:0:644", "0:0:0644", 0o600, 0o755),
        "mode": pair("0:0:644", "0:0:600", 0o600, 0o600),
        "owner": pair("0:0:644", "0:7:644", 0o600, 0o600),
        "type": pair("0:0:644", "0:0:644:char-1-3", 0o600, 0o600),
    }
    stack.layers(
        {name: lower for name, (lower, _) in names.items()},
        upper={name: upper for name, (_, upper) in names.items()},
    )
    for root in (stack.upper, stack.lowers[0]):
        os.setxattr(root, "user.containers.override_stat", b"0:0:755")
    before = layer_fingerprint(os.fsencode(stack.upper))
    listed = by_path(found(stack))
    assert {path: change.differs for path, change in listed.items()} == {
        path: (path[1:],) for path in ("/mode", "/owner", "/type")
    }
    assert listed["/type"].type == "character device"
    assert by_path(found(stack, alone=True))["/type"].type == "character device"
    assert layer_fingerprint(os.fsencode(stack.upper)) == before
    # Whose root says nothing of it has ordinary attributes.
    for root in (stack.upper, stack.lowers[0]):
        os.removexattr(root, "user.containers.override_stat")
    assert by_path(found(stack))["/same"].differs == ("mode", "owner", "xattrs")


def test_sizes_and_where_they_come_from(stack: Stack) -> None:
    stack.layers(
        {"old": {"f": "12345"}, "m": file(size=1 << 20), "c": "123", "gone": "1234567", "gonedir": {}},
        upper={
            "new": up({}, redirect="old"),
            "old": WHITEOUT,
            "m": file(size=1 << 20, mode=0o600, metacopy="", origin=""),
            "m2": file(size=1 << 20, metacopy="", origin="", redirect="/m"),
            "c": file("1" * 5000, origin=""),
            "l": symlink("abc"),
            "p": node(stat.S_IFIFO | 0o600),
            "gone": WHITEOUT,
            "gonedir": WHITEOUT,
        },
    )
    listed = by_path(found(stack))
    seen = {
        path: (each.type, each.size, each.old_size, each.in_upper, each.source)
        for path, each in listed.items()
    }
    assert seen == {
        "/new": ("directory", None, None, None, b"/old"),
        "/new/f": ("file", 5, None, False, b"/old/f"),
        "/old": ("directory", None, None, None, None),
        "/m": ("file", 1 << 20, 1 << 20, False, None),
        "/m2": ("file", 1 << 20, None, False, b"/m"),
        "/c": ("file", 5000, 3, True, None),
        "/l": ("symlink", 3, None, None, None),
        "/p": ("fifo", None, None, None, None),
        "/gone": ("file", None, 7, None, None),
        "/gonedir": ("directory", None, None, None, None),
    }
    assert {path for path, each in listed.items() if each.disk >= 5000} == {"/c"}
    alone = by_path(found(stack, alone=True))
    for path, each in alone.items():
        same = (each.size, each.in_upper, each.source, each.disk)
        assert same == (listed[path].size, listed[path].in_upper, listed[path].source, listed[path].disk)
    assert alone.keys() == listed.keys() - {"/new/f"}


def test_the_root(stack: Stack) -> None:
    """It is not in itself: only what was changed of it counts, and not its times, which are upper's own."""
    stack.layers({"f": "f"}, upper={"g": "g"})
    os.utime(stack.upper, ns=(1, 1))
    assert text(found(stack)) == "A /g"
    stack.upper.chmod(0o700)
    os.setxattr(stack.upper, "user.x", b"")
    os.setxattr(stack.upper, "trusted.overlay.impure", b"y")
    assert text(found(stack)) == "C /, A /g"
    assert found(stack)[0].differs == ("mode", "xattrs")
    assert text(found(stack, alone=True)) == "A /g"


def test_names_are_bytes(stack: Stack) -> None:
    names = [b"\x80\xff", b"new\nline", "ü中".encode(), b"n" * 255, b" ", b"-x", b"\\"]
    stack.layers({}, upper={})
    for name in names:
        Path(os.fsdecode(os.fsencode(stack.upper) + b"/" + name)).write_text("")
    for alone in (False, True):
        assert [change.path for change in found(stack, alone=alone)] == sorted(b"/" + name for name in names)


def test_user_marks(stack: Stack) -> None:
    """Found out by the root or what is in it, unless it is said."""
    stack.layers({"d": {"x": "x"}})
    build(stack.upper, {"d": directory({"y": "y"}, opaque="y")}, prefix=USER)
    assert uses_userxattr(str(stack.upper))
    assert text(found(stack)) == "C /d, D /d/x, A /d/y"
    assert text(found(stack, userxattr=False)) == "C /d, A /d/y"
    # A caller may set user.* attributes in a union that is marked by trusted.*, but not the other way round.
    os.setxattr(stack.upper, "trusted.overlay.impure", b"y")
    assert not uses_userxattr(str(stack.upper))
    assert text(found(stack)) == "C /d, A /d/y"


@pytest.mark.parametrize("alone", [True, False])
def test_layers_that_are_named_by_symlinks(stack: Stack, alone: bool) -> None:
    """As a container's init layer has a name by one."""
    stack.layers({"f": "f"}, upper={"new": "new", ".wh.f": ""})
    (stack.base / "links").symlink_to(stack.base)
    upper, lower = (str(stack.base / "links" / path.name) for path in (stack.upper, stack.lowers[0]))
    found = list(changes(upper, None if alone else [lower]))
    assert found == list(changes(str(stack.upper), None if alone else [str(stack.lowers[0])]))
    assert found


def test_hard_links_count_once(stack: Stack) -> None:
    from unionfs.offline.change import Totals

    stack.layers({}, upper={"a": "x" * 10_000})
    os.link(stack.upper / "a", stack.upper / "b")
    totals = Totals()
    for change in found(stack):
        totals.add(change)
    assert (totals.added, totals.added_size) == (2, 10_000)
    assert totals.disk == (stack.upper / "a").stat().st_blocks * 512


def test_names_that_upper_does_not_hold(stack: Stack) -> None:
    """With an index a lower file's other names show the change, and nobody knows where they are."""
    stack.layers({"a": "old", "d": {"b": "x"}})
    lower = stack.lowers[0]
    for name in ("b", "c"):
        os.link(lower / "a", lower / name)
    with stack.open(index=True) as view:
        view.write("a", b"new")
        assert view.read("b") == b"new"
    assert text(found(stack)) == "C /a"
    assert found(stack)[0].unlisted_links == 2
    with stack.open(index=True) as view:
        view.unlink("c")
    assert text(found(stack)) == "C /a, D /c"
    assert found(stack)[0].unlisted_links == 1


@pytest.mark.parametrize("alone", [False, True])
def test_a_path_that_cannot_be_looked_at(stack: Stack, alone: bool) -> None:
    stack.layers(
        {"d": {"x": "x"}},
        upper={"bad": directory({"in": "in"}, redirect="a/b"), "d": up({"n": "n"}), "z": "z"},
    )
    listed: list[str] = []
    problems: list[Problem] = []
    for each in changes(str(stack.upper), None if alone else list(map(str, stack.lowers))):
        if isinstance(each, Problem):
            problems.append(each)
        else:
            listed.append(f"{each.kind} {os.fsdecode(each.path)}")
    assert sorted(listed) == ["A /d/n", "A /z", "C /d"]
    assert [(problem.path, problem.error.errno) for problem in problems] == [(b"/bad", errno.EINVAL)]


def test_a_metacopy_without_data(stack: Stack) -> None:
    stack.layers({}, upper={"f": file(size=3, metacopy=""), "g": "g"})
    each = {change.path: change for change in changes(str(stack.upper), list(map(str, stack.lowers)))}
    assert isinstance(each[b"/g"], Change)
    problem = each[b"/f"]
    assert isinstance(problem, Problem)
    assert problem.error.errno == errno.EIO


@pytest.mark.parametrize("what", ["upper", "lower"])
def test_no_such_layer(stack: Stack, what: str) -> None:
    stack.layers({})
    paths = {"upper": str(stack.upper), "lower": str(stack.lowers[0])}
    paths[what] = str(stack.base / "none")
    with pytest.raises(MountError, match=f"{what} .*none does not exist"):
        list(changes(paths["upper"], [paths["lower"]]))


def test_symlinks_are_not_followed(stack: Stack) -> None:
    """A layer cannot lead outside, whatever the other one has at the same name."""
    outside = stack.base / "outside"
    build(outside, {"secret": "s"})
    stack.layers(
        {"l": symlink(str(outside)), "d": {"x": "x"}}, upper={"d": symlink(str(outside)), "l": up({})}
    )
    assert text(found(stack)) == "C /d, C /l"
    assert text(found(stack, alone=True)) == "A /d, C /l"


class _Calls:
    """Counts what is asked of the filesystem."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listed: list[str] = []
        self.asked = 0
        scandir, do_stat, do_open = os.scandir, os.stat, os.open

        def count(function: Any) -> Any:
            def counted(*arguments: Any, **keywords: Any) -> Any:
                self.asked += 1
                return function(*arguments, **keywords)

            return counted

        def listing(path: Any) -> Any:
            shown = f"/proc/self/fd/{path}" if isinstance(path, int) else os.fsdecode(path)
            self.listed.append(os.path.basename(os.path.realpath(shown)))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", listing)
        monkeypatch.setattr(os, "stat", count(do_stat))
        monkeypatch.setattr(os, "open", count(do_open))


@pytest.mark.parametrize("lower_files", [10, 1000])
def test_it_takes_as_long_as_there_are_changes(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, lower_files: int
) -> None:
    many = dict.fromkeys(map(str, range(lower_files)), "x")
    big: Tree = {"big": many, "other": {f"d{number}": {"x": "x"} for number in range(lower_files // 10)}}
    stack.layers(
        {**big, "moved": {"f": "f"}},
        upper={
            "big": up({"1": file("new", origin=""), "2": WHITEOUT, "n": "n"}),
            "new": up({}, redirect="moved"),
            "moved": WHITEOUT,
        },
    )
    calls = _Calls(monkeypatch)
    listed = found(stack)
    assert text(listed) == "C /big, C /big/1, D /big/2, A /big/n, D /moved, A /new, A /new/f"
    # Upper's root and two directories; of the lowers only the one that was renamed, whose content is told.
    assert sorted(calls.listed) == ["", "big", "moved", "new"]
    assert calls.asked < 90
