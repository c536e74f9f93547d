"""`whiteouts=aufs`: names that are marks, which callers can neither make nor see."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.overlay.aufs_layers import LOWER, UPPER, Act, tmpfile
from tests.overlay.rig import Stack
from tests.overlay.trees import disk
from unionfs.linux.syscalls import RENAME_EXCHANGE


@pytest.mark.parametrize("length", [251, 252, 255])
def test_names_that_leave_no_room_for_a_mark(stack: Stack, length: int) -> None:
    name = "n" * length
    stack.layers({name: "low", f"d{name[1:]}": {}}, upper={"u": "u"})
    with stack.open(whiteouts="aufs") as view:
        before = view.tree()
        acts: list[Act] = [
            lambda v: v.rename(name, "moved"),
            lambda v: v.unlink("moved" if v.exists("moved") else name),
            lambda v: v.rmdir(f"d{name[1:]}"),
        ]
        for act in acts:
            if length > 251:
                with pytest.raises(OSError) as caught:
                    act(view)
                assert caught.value.errno == errno.ENAMETOOLONG
                assert view.tree() == before
            else:
                act(view)
        assert view.ls() == (["u"] if length == 251 else sorted([name, f"d{name[1:]}", "u"]))


REFUSED: dict[str, Act] = {
    "create": lambda v: v.create(".wh.n"),
    "mkdir": lambda v: v.mkdir(".wh.n"),
    "mknod": lambda v: v.mknod(".wh.n", stat.S_IFIFO | 0o600),
    "symlink": lambda v: v.symlink("x", ".wh.n"),
    "link": lambda v: v.link("u", ".wh.n"),
    "link of a lower": lambda v: v.link("g", ".wh.n"),
    "nameless file": lambda v: tmpfile(v, "", ".wh.n"),
    "rename": lambda v: v.rename("u", ".wh.n"),
    "rename of a lower": lambda v: v.rename("dir/a", ".wh.n"),
    "the opaque mark": lambda v: v.create("own/.wh..wh..opq"),
    "AUFS's own": lambda v: v.mkdir(".wh..wh.plnk"),
}


@pytest.mark.parametrize("whiteouts", ["overlay", "aufs"])
@pytest.mark.parametrize("case", REFUSED)
def test_marks_cannot_be_made(either: Stack, case: str, whiteouts: str) -> None:
    stack = either.layers(LOWER, upper=UPPER)
    with stack.open(whiteouts=whiteouts) as view:
        before = view.tree()
        with pytest.raises(OSError) as caught:
            REFUSED[case](view)
        assert caught.value.errno == errno.EINVAL
        view.forget_all()
        assert view.tree() == before
    # A copy-up of what was to get the name is no change that anybody sees.
    assert not [name for name in disk(stack.upper) if ".wh." in name]


@pytest.mark.parametrize("whiteouts", ["overlay", "aufs"])
def test_marks_are_not_there(either: Stack, whiteouts: str) -> None:
    stack = either.layers({".wh.low": "", "low": "low"}, {"low": "below"}, upper={".wh.x": "", "x": "x"})
    with stack.open(whiteouts=whiteouts) as view:
        assert view.ls() == ["low", "x"]
        for act in (
            lambda: view.unlink(".wh.x"),
            lambda: view.rmdir(".wh.x"),
            lambda: view.rename(".wh.x", "y"),
            lambda: view.rename("x", ".wh.x", RENAME_EXCHANGE),
            lambda: view.stat(".wh.low"),
        ):
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno == errno.ENOENT
    assert sorted(os.listdir(stack.upper)) == [".wh.x", "x"]
