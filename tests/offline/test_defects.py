"""Each defect that a check knows, planted into a union that is otherwise healthy, found, and mended or left.

Where a mend promises to leave the tree as it is shown, this program and kernel overlayfs must show the same
before and after it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

import pytest

from tests.offline.checking import check, kernel_options, repair, shown, trees
from tests.offline.defects import DEFECTS, NOTHING
from tests.offline.planting import BOTH, used
from tests.overlay.rig import Stack, View
from tests.overlay.trees import build, file
from tests.support.mounts import needs_overlayfs, overlayfs
from unionfs.overlay.config import OwnersConfig, UnionConfig

pytestmark = needs_overlayfs


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


def test_marks_of_another_kind_of_mount(stack: Stack) -> None:
    used(stack)
    shutil.rmtree(stack.work / "index")
    findings = check(stack.config(userxattr=True, redirect_dir="nofollow"))
    assert ("marks", "note", "upper/a") in shown(findings, stack.base)


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
