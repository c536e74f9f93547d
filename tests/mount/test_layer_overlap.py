"""Lowers that are one another or lie in one another, beside kernel overlayfs, which answers ELOOP."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import run
from tests.support.mounts import mount, needs_fuse, needs_overlayfs, needs_root, scratch, umount

pytestmark = [needs_root, needs_fuse]

MS_BIND = 4096

LISTS = {
    "a:a": True,
    "a:a/b": True,
    "a/b:a": True,
    "a:other:a/b/c": True,
    "a:bound": True,
    "bound/b:a": True,
    "a:other": False,
    "a/b:a/bb": False,
    "a::a/b": True,
}


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        for name in ("a/b/c", "a/bb", "other", "bound", "upper", "work", "merged"):
            (directory / name).mkdir(parents=True)
        mount(str(directory / "a"), directory / "bound", "", MS_BIND)
        yield directory
        umount(directory / "bound")


def lowers(base: Path, text: str) -> str:
    return ":".join(f"{base}/{name}" if name else "" for name in text.split(":"))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("text", LISTS)
def test_overlapping_lowers_are_refused(base: Path, text: str, upper: bool) -> None:
    words = ("-o", f"lowerdir={lowers(base, text)}" + (f",upperdir={base}/upper,workdir={base}/work" * upper))
    done = run("mount", *words, base / "merged", status=None)
    if done.returncode == 0:
        run("umount", base / "merged")
    assert (done.returncode != 0) == LISTS[text], done.stderr
    assert not LISTS[text] or "given twice" in done.stderr or "lies inside" in done.stderr
    assert not LISTS[text] or list((base / "work").iterdir()) == []


@needs_overlayfs
@pytest.mark.parametrize("index", ["on", "off"])
@pytest.mark.parametrize("text", LISTS)
def test_the_kernel_refuses_the_same(base: Path, text: str, index: str) -> None:
    data = f"lowerdir={lowers(base, text)},upperdir={base}/upper,workdir={base}/work,index={index}"
    if LISTS[text]:
        with pytest.raises(OSError) as caught:
            mount("overlay", base / "merged", "overlay", 0, data)
        assert caught.value.errno == errno.ELOOP
    else:
        mount("overlay", base / "merged", "overlay", 0, data)
        umount(base / "merged")


def test_the_form_of_fuse_overlayfs_takes_them_as_there(base: Path) -> None:
    run("-o", f"lowerdir={base}/a:{base}/a,upperdir={base}/upper,workdir={base}/work", base / "merged")
    run("umount", base / "merged")
