"""Where a metacopy's redirect leads when its file has several names, long ones or an index."""

from __future__ import annotations

import errno
import functools
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.data_rig import errno_of
from tests.overlay.rig import Stack, View
from tests.overlay.trees import marks
from tests.support.mounts import needs_overlayfs
from unionfs.linux.syscalls import RENAME_EXCHANGE, renameat2

DATA = "the data of a lower file " * 400


@needs_overlayfs
@pytest.mark.parametrize("index", [False, True], ids=["index=off", "index=on"])
@pytest.mark.parametrize("step", ["link", "rename"])
def test_one_name_that_fits_is_enough_for_a_redirect(stack: Stack, index: bool, step: str) -> None:
    """A metacopy with several names of which the first known one is too long for a redirect."""
    deep = "/".join(["n" * 150] * 2)
    long = f"{deep}/a"
    stack.layers({"n" * 150: {"n" * 150: {"a": DATA}}, "short": {}, "to": {}})
    os.link(stack.lowers[0] / long, stack.lowers[0] / "short" / "b")
    with stack.open(metacopy=True, index=index) as view:
        view.chmod(long, 0o600)
        view.ino("short/b")
        (view.link if step == "link" else view.rename)("short/b", "to/c")
        assert view.read("to/c") == DATA.encode()
        assert view.read(long) == DATA.encode()
    with stack.open(metacopy=True, index=index) as view:
        assert view.read("to/c") == DATA.encode()
    options = ["metacopy=on", "redirect_dir=on", f"index={'on' if index else 'off'}"]
    with stack.overlayfs(stack.work, *options) as merged:
        assert (merged / "to" / "c").read_text() == DATA
        assert (merged / long).read_text() == DATA


def test_a_metacopy_whose_names_are_all_too_long_is_not_linked(stack: Stack) -> None:
    stack.layers({"n" * 150: {"m" * 150: {"a": DATA, "b": {}}}})
    long = "n" * 150 + "/" + "m" * 150
    os.link(stack.lowers[0] / long / "a", stack.lowers[0] / long / "c")
    with stack.open(metacopy=True, index=True) as view:
        view.ino(f"{long}/c")
        view.chmod(f"{long}/a", 0o600)
        with pytest.raises(OSError) as caught:
            view.link(f"{long}/a", "new")
        assert caught.value.errno == errno.EXDEV
        assert not view.exists("new")


INDEXED = ["metacopy=on", "redirect_dir=on", "index=on"]


@needs_overlayfs
@pytest.mark.parametrize("step", ["link", "rename", "link by the other name"])
@pytest.mark.parametrize("writer", ["overlayfs", "pyunionfs"])
def test_an_indexed_metacopy_found_by_another_name_keeps_its_redirect(
    stack: Stack, writer: str, step: str
) -> None:
    """Upper has the renamed name with a redirect; a lower's name that upper lacks finds the index entry."""
    stack.layers({"a": DATA, "d": {}, "e": {}})
    os.link(stack.lowers[0] / "a", stack.lowers[0] / "b")
    if writer == "overlayfs":
        with stack.overlayfs(stack.work, *INDEXED) as merged:
            (merged / "a").rename(merged / "d" / "a")
    else:
        with stack.open(metacopy=True, index=True) as view:
            view.rename("a", "d/a")
    with stack.open(metacopy=True, index=True) as view:
        view.ino("b")
        if step == "rename":
            view.rename("d/a", "e/a")
        else:
            view.link("b" if step == "link by the other name" else "d/a", "e/a")
            view.unlink("d/a")
        view.unlink("b")
    assert marks(stack.upper / "e" / "a")["redirect"] == b"/a"
    with stack.open(metacopy=True, index=True) as view:
        tree = view.tree()
        assert view.read("e/a") == DATA.encode()
    assert stack.kernel(*INDEXED) == tree


@needs_overlayfs
@pytest.mark.parametrize("index", ["on", "off"])
@pytest.mark.parametrize("names", [1, 2], ids=["one name", "two names"])
def test_what_had_several_names_gets_an_absolute_redirect_as_overlayfs_gives(
    base: Path, names: int, index: str
) -> None:
    """Also when one name is left; with one from the beginning the redirect is relative."""
    found = []
    for writer in ("overlayfs", "pyunionfs"):
        (base / writer).mkdir()
        stack = Stack(base / writer).layers({"d": {"a": DATA}})
        if names == 2:
            os.link(stack.lowers[0] / "d" / "a", stack.lowers[0] / "d" / "b")
        options = ["metacopy=on", "redirect_dir=on", f"index={index}"]
        if writer == "overlayfs":
            with stack.overlayfs(stack.work, *options) as merged:
                for path in (merged / "d").glob("b"):
                    path.unlink()
                (merged / "d" / "a").rename(merged / "d" / "c")
        else:
            with stack.open(metacopy=True, index=index == "on") as view:
                if names == 2:
                    view.unlink("d/b")
                view.rename("d/a", "d/c")
                tree = view.tree()
            assert stack.kernel(*options) == tree
        found.append(marks(stack.upper / "d" / "c")["redirect"])
    assert found == [b"/d/a" if names == 2 else b"a"] * 2


@needs_overlayfs
@pytest.mark.parametrize("index", ["on", "off"])
@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE], ids=["rename", "exchange"])
def test_a_rename_goes_by_the_name_that_the_caller_used(base: Path, index: str, flags: int) -> None:
    """By one too long for a redirect it is EXDEV, also of a file that has a short one: by that it moves."""
    found = []
    long = f"{'n' * 150}/{'m' * 150}/a"
    for writer in ("overlayfs", "pyunionfs"):
        (base / writer).mkdir()
        stack = Stack(base / writer).layers(
            {"n" * 150: {"m" * 150: {"a": DATA}}, "short": {}, "to": {"c": "c", "d": "d"}}
        )
        os.link(stack.lowers[0] / long, stack.lowers[0] / "short" / "b")
        options = ["metacopy=on", "redirect_dir=on", f"index={index}"]
        with ExitStack() as mounted:
            if writer == "overlayfs":
                merged = mounted.enter_context(stack.overlayfs(stack.work, *options))

                def rename(old: str, new: str, merged: Path = merged) -> None:
                    renameat2(0, bytes(merged / old), 0, bytes(merged / new), flags)

                (merged / long).chmod(0o600)
                (merged / "short" / "b").stat()
            else:
                view = mounted.enter_context(stack.open(metacopy=True, index=index == "on"))

                def rename(old: str, new: str, view: View = view) -> None:  # type: ignore[misc]
                    view.rename(old, new, flags)

                view.chmod(long, 0o600)
                view.ino("short/b")
            outcomes = [errno_of(functools.partial(rename, long, "to/c"))]
            outcomes.append(errno_of(functools.partial(rename, "short/b", "to/d")))
        assert stack.kernel(*options)["to/d"].split()[-1] == repr(DATA.encode()).split()[-1]
        found.append((outcomes, marks(stack.upper / "to" / "d")["redirect"]))
    assert found == [(["EXDEV", "ok"], b"/short/b")] * 2
