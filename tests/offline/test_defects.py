"""Each defect that a check knows, planted into a union that is otherwise healthy, found, and mended or left.

Where a mend promises to leave the tree as it is shown, this program and kernel overlayfs must show the same
before and after it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.offline.checking import check, kernel_options, repair, shown, trees
from tests.overlay.rig import Stack, View
from tests.overlay.trees import TRUSTED, USER, Tree, build, file, marks
from tests.support.mounts import needs_overlayfs, overlayfs
from unionfs.cli import check as command
from unionfs.offline import repair as mending
from unionfs.offline.findings import Consent
from unionfs.offline.stack import opened
from unionfs.overlay.config import OwnersConfig, UnionConfig
from unionfs.overlay.cred import Caller

pytestmark = needs_overlayfs

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

UID = 12345

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


Plant = Callable[[Stack], object]


@dataclass(frozen=True)
class Defect:
    """What is planted and what must be found: (kind, severity, path) for each finding."""

    plant: Plant
    findings: set[tuple[str, str, str]]
    mended: bool = True
    """Whether a repair mends all of the findings, with the consent if one is given."""
    same_tree: bool = True
    """Whether the union can be looked at as a whole before, and must be the same after."""
    consent: Consent | None = None
    options: dict[str, Any] = field(default_factory=lambda: BOTH)
    mountable: bool = True
    """Whether the kernel mounts it with all its features afterwards."""


def _opaque_with_whiteout(stack: Stack) -> None:
    where = new_directory(stack.upper / "opaque")
    put(where, "opaque", b"y")
    whiteout(where / "w")


def _whiteout_file(stack: Stack) -> None:
    put(stack.upper / "m", "opaque", b"x")
    (stack.upper / "m/nothing").touch()
    put(stack.upper / "m/nothing", "whiteout", b"y")


def _move_lower(stack: Stack) -> None:
    shutil.rmtree(stack.lowers[1] / "moved")
    # What it held must not be the only thing that is missed.
    (stack.upper / "here/in").unlink()


def _two_redirects(stack: Stack) -> None:
    put(new_directory(stack.upper / "twin"), "redirect", b"/other")


def _nothing_covers(stack: Stack) -> None:
    (stack.upper / "moved").unlink()


def _metacopy_without_data(stack: Stack) -> None:
    (stack.lowers[1] / "data").unlink()


def _other_metacopy(stack: Stack) -> None:
    """Its origin is one lower file, and at its path is another."""
    (stack.lowers[1] / "data").rename(stack.lowers[1] / "away")
    (stack.lowers[1] / "data").write_text("DATA")


def _deleted_lower(stack: Stack) -> None:
    (stack.lowers[1] / "a").unlink()


def _wrong_type(stack: Stack) -> None:
    put(stack.upper / "a", "origin", origin_of(stack.upper / "d"))


def _foreign_origin(stack: Stack) -> None:
    value = bytearray(origin_of(stack.upper / "a"))
    value[5:21] = b"no filesystem 16"
    put(stack.upper / "a", "origin", bytes(value))


def _redirect_elsewhere(stack: Stack) -> None:
    put(stack.upper / "here", "redirect", b"/other")
    whiteout(stack.upper / "other")
    (stack.upper / "moved").unlink()


def _volatile(stack: Stack) -> None:
    mark = stack.work / "work/incompat/volatile"
    mark.mkdir(parents=True)
    (mark / "dirty").touch()


def _litter(stack: Stack) -> None:
    for place in ("work", "index"):
        (stack.work / place / "#1").write_text("half a file")
    tree = stack.work / "work/#2"
    tree.mkdir(mode=0)
    (tree / "x").touch()


def _entry_of_nobody(stack: Stack, data: str) -> Path:
    """An index entry of a lower file that was deleted since."""
    handle = origin_of(stack.upper / "a")
    (stack.lowers[1] / "a").unlink()
    entry = stack.work / "index" / handle.hex()
    entry.write_text(data)
    put(entry, "origin", handle)
    drop(stack.upper / "a", "origin")
    return entry


def _stale_entry_with_links(stack: Stack) -> None:
    entry = _entry_of_nobody(stack, "linked to")
    os.link(entry, stack.upper / "kept")
    put(stack.upper, "impure", b"y")
    # The name in upper has the same origin as the entry, rightly: that is told, too.


def _orphan_entry(stack: Stack) -> None:
    entry = indexed(stack)
    (stack.upper / "h1").unlink()
    whiteout(stack.upper / "h1")
    whiteout(stack.upper / "h2")
    put(entry, "nlink", b"U-1")


def _misnamed_entry(stack: Stack) -> None:
    os.link(indexed(stack), stack.work / "index" / origin_of(stack.upper / "d/e/deep").hex())


def _directory_entry(stack: Stack, value: bytes | None, content: bool = False) -> None:
    where = new_directory(stack.work / "index" / origin_of(stack.upper / "d").hex())
    if value is not None:
        put(where, "upper", value)
    if content:
        (where / "x").touch()


def _stale_directory_entry(stack: Stack) -> None:
    """Of a directory in upper that does not exist any more."""
    doomed = new_directory(stack.upper / "doomed")
    shutil.rmtree(doomed)
    handle = bytearray(origin_of(stack.upper / "d"))
    handle[-1] ^= 0x55  # another generation of the inode
    _directory_entry(stack, bytes(handle))


def _other_top(stack: Stack) -> None:
    put(stack.upper, "origin", origin_of(stack.upper / "d/e"))


def _lower_metacopy(stack: Stack) -> None:
    put(stack.lowers[1] / "b", "metacopy", b"")


def _lower_redirect(stack: Stack) -> None:
    put(stack.lowers[0] / "d", "redirect", b"/no/such")


def _lower_bad_redirect(stack: Stack) -> None:
    put(stack.lowers[0] / "d", "redirect", b"../..")


def _user_metacopy(stack: Stack) -> None:
    shutil.rmtree(stack.work / "index")  # that was made with trusted marks
    put(stack.upper / "a", "metacopy", b"", "user.overlay.")


def _file_for_work(stack: Stack) -> None:
    (stack.work / "work").rmdir()
    (stack.work / "work").touch()


NOTHING = "whiteout", "warning"

DEFECTS: dict[str, Defect] = {
    "whiteout over nothing": Defect(lambda s: whiteout(s.upper / "nothing"), {(*NOTHING, "upper/nothing")}),
    "whiteout over nothing, merged": Defect(
        lambda s: whiteout(s.upper / "d/e/nothing"), {(*NOTHING, "upper/d/e/nothing")}
    ),
    "whiteout over nothing, redirected": Defect(
        lambda s: whiteout(s.upper / "here/nothing"), {(*NOTHING, "upper/here/nothing")}
    ),
    "whiteout in upper alone": Defect(lambda s: whiteout(s.upper / "new/w"), {(*NOTHING, "upper/new/w")}),
    "whiteout in opaque": Defect(_opaque_with_whiteout, {(*NOTHING, "upper/opaque/w")}),
    "whiteout of which the lower is gone": Defect(
        lambda s: (s.lowers[1] / "gone").unlink(), {(*NOTHING, "upper/gone")}
    ),
    "aufs whiteout": Defect(
        lambda s: (s.upper / "d/.wh.nothing").touch(), {(*NOTHING, "upper/d/.wh.nothing")}, same_tree=False
    ),
    "aufs whiteout with content": Defect(
        lambda s: (s.upper / "d/.wh.nothing").write_text("precious"),
        {(*NOTHING, "upper/d/.wh.nothing")},
        mended=False,
        same_tree=False,
    ),
    "whiteout file": Defect(_whiteout_file, {(*NOTHING, "upper/m/nothing")}, same_tree=False),
    "redirect to nothing": Defect(
        _move_lower, {("redirect", "warning", "upper/here"), (*NOTHING, "upper/moved")}
    ),
    "redirect to a file": Defect(
        lambda s: put(new_directory(s.upper / "r"), "redirect", b"/b"),
        {("redirect", "warning", "upper/r")},
        consent=Consent.LOWERS,
    ),
    "malformed redirect": Defect(
        lambda s: put(s.upper / "here", "redirect", b"a/../b"),
        {("redirect", "error", "upper/here")},
        mended=False,
        same_tree=False,
    ),
    "redirect not followed": Defect(
        lambda s: None,
        {("redirect", "error", "upper/here")},
        mended=False,
        same_tree=False,
        options={"redirect_dir": "nofollow"},
    ),
    "redirect to what another shows": Defect(
        _two_redirects, {("duplicate", "error", "upper/twin")}, mended=False, same_tree=False
    ),
    "redirect that nothing covers": Defect(
        _nothing_covers, {("duplicate", "error", "upper/here")}, mended=False, same_tree=False
    ),
    "redirect to another than the origin": Defect(
        _redirect_elsewhere, {("redirect", "warning", "upper/here")}, mended=False
    ),
    "redirect of upper's root": Defect(
        lambda s: put(s.upper, "redirect", b"/d"), {("redirect", "warning", "upper")}
    ),
    "redirect to nothing in a lower": Defect(
        _lower_redirect, {("redirect", "warning", "lower0/d")}, mended=False, same_tree=False
    ),
    "malformed redirect in a lower": Defect(
        _lower_bad_redirect, {("redirect", "error", "lower0/d")}, mended=False, same_tree=False
    ),
    "metacopy without data": Defect(
        _metacopy_without_data, {("metacopy", "error", "upper/data")}, mended=False, same_tree=False
    ),
    "metacopy without data in a lower": Defect(
        _lower_metacopy, {("metacopy", "error", "lower1/b")}, mended=False, same_tree=False
    ),
    "metacopy of another size": Defect(
        lambda s: (s.lowers[1] / "data").write_text("more data"),
        {("metacopy", "error", "upper/data")},
        mended=False,
        same_tree=False,
    ),
    "metacopy of another file": Defect(
        _other_metacopy, {("metacopy", "error", "upper/data")}, mended=False, same_tree=False
    ),
    "malformed metacopy": Defect(
        lambda s: put(s.upper / "data", "metacopy", b"\0\x09\0\0"),
        {("metacopy", "error", "upper/data")},
        mended=False,
        same_tree=False,
    ),
    "metacopy of a directory": Defect(
        lambda s: put(s.upper / "new", "metacopy", b""), {("metacopy", "warning", "upper/new")}
    ),
    "metacopy with user marks": Defect(
        _user_metacopy,
        {("metacopy", "error", "upper/a")},
        mended=False,
        same_tree=False,
        options={"userxattr": True, "redirect_dir": "nofollow"},
    ),
    "malformed origin": Defect(
        lambda s: put(s.upper / "a", "origin", b"\0\xfb\x30nonsense"), {("origin", "warning", "upper/a")}
    ),
    "malformed origin of a directory": Defect(
        lambda s: put(s.upper / "d/e", "origin", b"nonsense"), {("origin", "warning", "upper/d/e")}
    ),
    "origin that was deleted": Defect(_deleted_lower, {("origin", "warning", "upper/a")}),
    "origin on another filesystem": Defect(_foreign_origin, {("lowers", "note", "upper/a")}, mended=False),
    "origin of another version": Defect(
        lambda s: put(s.upper / "a", "origin", b"\x01" + origin_of(s.upper / "a")[1:]),
        {("origin", "note", "upper/a")},
        mended=False,
    ),
    "origin of another type": Defect(_wrong_type, {("origin", "error", "upper/a")}, same_tree=False),
    "odd opaque": Defect(
        lambda s: put(s.upper / "d/e", "opaque", b"yes"), {("opaque", "warning", "upper/d/e")}, mended=False
    ),
    "opaque file": Defect(lambda s: put(s.upper / "a", "opaque", b"y"), {("opaque", "warning", "upper/a")}),
    "opaque root": Defect(
        lambda s: put(s.upper, "opaque", b"y"), {("opaque", "warning", "upper")}, mended=False
    ),
    "not impure": Defect(lambda s: drop(s.upper / "d", "impure"), {("impure", "warning", "upper/d")}),
    "root not impure": Defect(lambda s: drop(s.upper, "impure"), {("impure", "warning", "upper")}),
    "malformed protattr": Defect(
        lambda s: put(s.upper / "a", "protattr", b"axe"), {("protattr", "warning", "upper/a")}, mended=False
    ),
    "malformed nlink": Defect(
        lambda s: put(s.upper / "h1", "nlink", b"many"),
        {("nlink", "warning", "upper/h1"), ("nlink", "warning", "work/index/@")},
        mended=False,
    ),
    "malformed uuid": Defect(lambda s: put(s.upper, "uuid", b"short"), {("uuid", "warning", "upper")}),
    "another top lower": Defect(_other_top, {("lowers", "error", "upper")}, consent=Consent.LOWERS),
    "volatile": Defect(
        _volatile, {("volatile", "error", "work/work/incompat/volatile")}, consent=Consent.VOLATILE
    ),
    "litter": Defect(
        _litter,
        {("litter", "warning", f"work/{name}") for name in ("work/#1", "work/#2", "index/#1")},
    ),
    "litter of fuse-overlayfs": Defect(
        lambda s: (s.work / "work/17").write_text("half a file"), {("litter", "warning", "work/work/17")}
    ),
    "something else in work/work": Defect(
        lambda s: (s.work / "work/notes").write_text("precious"),
        {("litter", "warning", "work/work/notes")},
        mended=False,
        mountable=False,
    ),
    "something else in work": Defect(
        lambda s: (s.work / "notes").write_text("precious"), {("work", "error", "work/notes")}, mended=False
    ),
    "a file where work/work should be": Defect(
        _file_for_work,
        {("work", "error", "work/work")},
        mended=False,
        mountable=False,
    ),
    "a feature of the future": Defect(
        lambda s: new_directory(s.work / "work/incompat/quantum"),
        {("work", "error", "work/work/incompat/quantum")},
        mended=False,
        mountable=False,
    ),
    "index entry with no handle for a name": Defect(
        lambda s: (s.work / "index/notes").write_text("precious"),
        {("index", "error", "work/index/notes")},
        mended=False,
        mountable=False,
    ),
    # Without an index, the tree shows that such a file has a link less.
    "index entry with another origin": Defect(
        _misnamed_entry, {("index", "warning", "work/index/@")}, same_tree=False
    ),
    "index entry of a deleted lower": Defect(
        _stale_entry_with_links,
        {("index", "warning", "work/index/@"), ("origin", "warning", "upper/kept")},
        same_tree=False,
    ),
    "index entry of a deleted lower, alone": Defect(
        lambda s: _entry_of_nobody(s, "precious"), {("index", "warning", "work/index/@")}, mended=False
    ),
    "index entry of a deleted lower, empty": Defect(
        lambda s: _entry_of_nobody(s, ""), {("index", "warning", "work/index/@")}
    ),
    "index entry without a name": Defect(_orphan_entry, {("index", "warning", "work/index/@")}),
    "index entry of a directory, leading nowhere": Defect(
        lambda s: _directory_entry(s, None), {("index", "warning", "work/index/@")}
    ),
    "index entry of a directory, leading nowhere and full": Defect(
        lambda s: _directory_entry(s, None, content=True),
        {("index", "warning", "work/index/@")},
        mended=False,
        mountable=False,
    ),
    "index entry of a deleted upper directory": Defect(
        _stale_directory_entry, {("index", "warning", "work/index/@")}, mended=False
    ),
    "index of another upper": Defect(
        lambda s: put(s.work / "index", "upper", origin_of(s.upper / "d/e")),
        {("index", "error", "work/index")},
        consent=Consent.LOWERS,
    ),
}


def found(stack: Stack, options: dict[str, Any]) -> set[tuple[str, str, str]]:
    """What a check finds; `@` stands for the name of an index entry that was not there before."""
    return {
        (kind, severity, _short(path))
        for kind, severity, path in shown(check(stack.config(**options)), stack.base)
    }


def _short(path: str) -> str:
    return "work/index/@" if path.startswith("work/index/00fb") else path


@pytest.mark.parametrize("name", DEFECTS)
def test_defect(stack: Stack, name: str) -> None:
    defect = DEFECTS[name]
    used(stack)
    config = stack.config(**BOTH)
    assert check(config) == []
    defect.plant(stack)
    options = defect.options
    config = stack.config(**options)
    assert found(stack, options) == defect.findings
    before = trees(stack, **options) if defect.same_tree else None

    if defect.consent is not None:
        outcomes = repair(config)
        assert any(each.left and "--accept-" in each.left for each in outcomes), outcomes
    outcomes = repair(config, [defect.consent] if defect.consent else [])
    mended = [each for each in outcomes if each.done]
    assert len(mended) == (len(defect.findings) if defect.mended else 0), outcomes
    assert found(stack, options) == (set() if defect.mended else defect.findings)
    if before is not None:
        assert trees(stack, **options) == before
    if defect.mended and defect.mountable:
        words = kernel_options(**options)
        with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged, options=words):
            pass
        assert check(config) == []


@pytest.fixture
def with_data(stack: Stack) -> Stack:
    """A metacopy in a lower whose data lie in the second of two data-only layers."""
    low = file("", size=4, metacopy="", redirect="/store/blob")
    stack.layers({"f": low})
    build(stack.base / "empty", {})
    build(stack.base / "data", {"store": {"blob": "blob"}})
    return stack


def _data_config(stack: Stack) -> UnionConfig:
    data = tuple(str(stack.base / name) for name in ("empty", "data"))
    return replace(stack.config(metacopy=True), data_lowers=data)


def test_data_only_layers(with_data: Stack) -> None:
    stack, config = with_data, _data_config(with_data)
    assert check(config) == []
    with View(config) as view:
        view.chmod("f", 0o600)
        assert view.read("f") == b"blob"
    assert check(config) == []
    blob = stack.base / "data/store/blob"
    blob.write_text("longer")
    assert shown(check(config), stack.base) == {("metacopy", "error", "upper/f")}
    blob.unlink()
    assert shown(check(config), stack.base) == {("metacopy", "error", "upper/f")}
    (stack.upper / "f").unlink()
    assert shown(check(config), stack.base) == {("metacopy", "error", "lower0/f")}
    blob.symlink_to("/etc/passwd")
    assert shown(check(config), stack.base) == {("metacopy", "error", "lower0/f")}


def test_with_other_lowers_nothing_is_mended_that_depends_on_them(stack: Stack) -> None:
    """A forgotten lower makes whiteouts look like ones over nothing: removing them would undo deletions."""
    used(stack)
    right = stack.config(**BOTH)
    before = trees(stack, **BOTH)
    wrong = replace(right, lowers=right.lowers[:1])
    outcomes = repair(wrong)
    assert {str(each.finding.kind) for each in outcomes} == {"lowers", "whiteout", "redirect", "metacopy"}
    assert [each for each in outcomes if each.done] == []
    assert all("--accept-lowers" in (each.left or "") for each in outcomes if each.finding.mend)
    mendable = sum(each.finding.mend is not None for each in outcomes)
    for each in (outcomes, mending.look(check(wrong))):
        advice = {str(one.finding.kind): one.next_step for one in each if one.finding.mend}
        assert all(text.startswith("give the right lowers first") for text in advice.values())
        assert "whiteout" in advice
    summary = command._summary(mending.look(check(wrong)), 9, repaired=False)
    assert summary.endswith(f"; --repair --accept-lowers can mend {mendable}")
    assert "; --repair can" not in summary
    assert check(right) == []
    assert trees(stack, **BOTH) == before


def test_a_lower_on_a_filesystem_that_is_missing_counts_as_other_lowers(stack: Stack) -> None:
    used(stack)
    config = stack.config(**BOTH)
    _foreign_origin(stack)
    whiteout(stack.upper / "nothing")
    assert [each.done for each in repair(config)] == [None, None]
    outcomes = repair(config, [Consent.LOWERS])
    assert [str(each.finding.kind) for each in outcomes if each.done] == ["whiteout"]


def test_copied_lowers_can_be_accepted(stack: Stack) -> None:
    """On the same filesystem, and the old ones are still there: to the upper these are strangers."""
    used(stack)
    copies = []
    for lower in stack.lowers:
        shutil.copytree(lower, stack.base / f"copy-of-{lower.name}", symlinks=True)
        copies.append(stack.base / f"copy-of-{lower.name}")
    stack.lowers = copies
    config = stack.config(metacopy=True)
    whiteout(stack.upper / "nothing")
    before = trees(stack, metacopy=True)
    findings = shown(check(config), stack.base)
    assert (*NOTHING, "upper/nothing") in findings
    assert {each for each in findings if each[0] == "lowers"}
    assert [each.done for each in repair(config) if each.finding.by_lowers] == [None]
    repair(config, [Consent.LOWERS])
    assert check(config) == []
    assert trees(stack, metacopy=True) == before


def test_files_that_stand_for_devices(stack: Stack) -> None:
    """With `override_stat` attributes an object is what these say, a whiteout perhaps."""
    stack.layers({"d": {"null": "", "gone": ""}})
    told = "user.containers.override_stat"
    for root in (stack.upper, stack.lowers[0]):
        os.setxattr(root, told, b"0:0:755")
    (stack.upper / "d").mkdir()
    for name in ("gone", "nothing"):
        (stack.upper / "d" / name).touch()
        os.setxattr(stack.upper / "d" / name, told, b"0:0:0:char-0-0")
    os.setxattr(stack.lowers[0] / "d/null", told, b"0:0:666:char-1-3")
    config = replace(stack.config(), owners=OwnersConfig(xattr_permissions=2))
    with View(config) as view:
        assert view.ls("d") == ["null"]
        view.chmod("d/null", 0o600)
    assert shown(check(config), stack.base) == {(*NOTHING, "upper/d/nothing")}
    assert [each.done is not None for each in repair(config)] == [True]
    assert check(config) == []
    assert (stack.upper / "d/gone").exists()


def test_how_fuse_overlayfs_says_opaque_is_no_whiteout(stack: Stack) -> None:
    used(stack)
    (stack.upper / "new/.wh..opq").touch()
    (stack.upper / "new/.wh..wh..opq").touch()
    assert check(stack.config(**BOTH)) == []


def test_a_mend_that_is_cut_off_changes_nothing_that_is_shown(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the one that takes two steps: opaque, and not yet without its redirect."""
    used(stack)
    _move_lower(stack)
    config = stack.config(**BOTH)
    before = trees(stack, **BOTH)

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "removexattr", cut_off)
        with pytest.raises(KeyboardInterrupt):
            repair(config)
    assert marks(stack.upper / "here")["opaque"] == b"y"
    assert marks(stack.upper / "here")["redirect"] == b"moved"
    assert trees(stack, **BOTH) == before
    repair(config)
    assert not [each for each in check(config) if each.kind != "origin"]
    assert trees(stack, **BOTH) == before


def test_as_an_ordinary_user(base: Path) -> None:
    """Upper's modes keep its owner out; they are as they were afterwards."""
    stack = Stack(base).layers({"f": "f", "d": {"g": "g"}})
    stack.upper.joinpath("closed").mkdir()
    stack.upper.joinpath("file").write_text("content")
    put(stack.upper / "file", "opaque", b"y", USER)
    whiteout(stack.upper / "closed/nothing")
    litter = new_directory(stack.work / "work/#1/closed")
    (litter / "x").touch()
    for path in (stack.upper, stack.work, *stack.upper.rglob("*"), *stack.work.rglob("*")):
        os.chown(path, UID, UID)
    for path, mode in ((stack.upper / "closed", 0o500), (stack.upper / "file", 0o000), (litter, 0o000)):
        path.chmod(mode)
    for above in (stack.base, *stack.base.parents):
        above.chmod(above.stat().st_mode | 0o011)
    config = stack.config(userxattr=True, redirect_dir="nofollow")
    before = shown(check(config, user=UID), stack.base)
    assert before == {
        ("opaque", "warning", "upper/file"),
        (*NOTHING, "upper/closed/nothing"),
        ("litter", "warning", "work/work/#1"),
    }
    outcomes = repair(config, user=UID)
    assert [each.finding for each in outcomes if each.done is None] == []
    assert check(config, user=UID) == []
    assert (stack.upper / "closed").stat().st_mode & 0o777 == 0o500
    assert (stack.upper / "file").stat().st_mode & 0o777 == 0
    assert (stack.upper / "file").read_text() == "content"


def test_other_lowers_as_an_ordinary_user(base: Path) -> None:
    """Who may not open handles sees that lower directories are missing, and mends nothing by the lowers."""
    stack = Stack(base).layers({"a": "a"}, {"d": {"f": "f"}, "gone": ""})
    for path in (stack.upper, stack.work):
        os.chown(path, UID, UID)
    for above in (stack.base, *stack.base.parents):
        above.chmod(above.stat().st_mode | 0o011)
    config = stack.config(userxattr=True, redirect_dir="nofollow")
    # Lowers of the same user, who else could not copy them up.
    for path in (path for lower in stack.lowers for path in (lower, *lower.rglob("*"))):
        os.chown(path, UID, -1)
    os.seteuid(UID)  # from the beginning: a union of root's would have this process keep its capabilities
    try:
        with View(config, Caller(UID, os.getegid(), 0, 0o022)) as view:
            view.write("d/f", b"F")
            view.unlink("gone")
    finally:
        os.seteuid(0)
    assert check(config, user=UID) == []
    wrong = replace(config, lowers=config.lowers[:1])
    assert shown(check(wrong, user=UID), stack.base) == {
        (*NOTHING, "upper/gone"),
        ("lowers", "note", "upper/d"),
    }
    assert [each.done for each in repair(wrong, user=UID)] == [None, None]
    assert check(config, user=UID) == []


def test_marks_of_another_kind_of_mount(stack: Stack) -> None:
    used(stack)
    shutil.rmtree(stack.work / "index")
    findings = check(stack.config(userxattr=True, redirect_dir="nofollow"))
    assert ("marks", "note", "upper/a") in shown(findings, stack.base)


def test_a_mend_looks_again(stack: Stack) -> None:
    """What has changed since the check is left alone."""
    used(stack)
    config = stack.config(**BOTH)
    whiteout(stack.upper / "nothing")
    put(stack.upper / "a", "origin", b"malformed")
    (stack.work / "work/#1").touch()
    findings = check(config)
    assert len(findings) == 3
    (stack.upper / "nothing").unlink()
    (stack.upper / "nothing").write_text("precious")
    put(stack.upper / "a", "origin", b"other")
    with opened(config, writable=True) as layers:
        outcomes = list(mending.repair(layers, findings, []))
    assert [each.done is None for each in outcomes] == [False, True, True]
    assert all(each.left and "has changed" in each.left for each in outcomes[1:])
    assert (stack.upper / "nothing").read_text() == "precious"
    assert origin_of(stack.upper / "a") == b"other"


def test_what_is_left_has_a_next_step(stack: Stack) -> None:
    used(stack)
    for name in ("whiteout over nothing", "metacopy without data", "volatile", "something else in work"):
        DEFECTS[name].plant(stack)
    findings = check(stack.config(**BOTH))
    assert len(findings) == 4
    for finding in findings:
        assert finding.reason
        assert finding.advice
        assert "\n" not in finding.reason + finding.advice
