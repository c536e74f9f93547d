"""Unusual layers: many, overlayfs and FUSE mounts, filesystems without xattrs or ACLs, read-only ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import (
    loop_fs,
    make_directories,
    mount,
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    pyunionfs,
    scratch,
    umount,
)

pytestmark = [needs_root, needs_fuse]

MS_RDONLY = 1
MS_REMOUNT = 32


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        make_directories(directory, "a", "b", "upper", "work", "merged", "upper2", "work2", "merged2")
        (directory / "a" / "f").write_text("a")
        (directory / "b" / "g").write_text("b")
        (directory / "b" / "d").mkdir()
        (directory / "b" / "d" / "deep").write_text("deep")
        yield directory


def test_a_hundred_and_fifty_layers(base: Path) -> None:
    lowers = []
    for number in range(150):
        lower = base / f"l{number}"
        (lower / "d").mkdir(parents=True)
        (lower / "d" / f"f{number}").write_text(str(number))
        (lower / "same").write_text(str(number))
        lowers.append(lower)
    with pyunionfs(lowers, base / "upper", base / "work", base / "merged") as daemon:
        assert sorted(os.listdir(daemon.merged / "d")) == sorted(f"f{number}" for number in range(150))
        assert (daemon.merged / "same").read_text() == "0"
        for number in (0, 77, 149):
            (daemon.merged / "d" / f"f{number}").unlink()
        (daemon.merged / "d" / "f3").write_text("new")
        assert len(os.listdir(daemon.merged / "d")) == 147
    assert (base / "upper" / "d" / "f149").lstat().st_rdev == 0
    assert (lowers[3] / "d" / "f3").read_text() == "3"


@needs_overlayfs
def test_a_kernel_overlay_as_lower(base: Path) -> None:
    with overlayfs([base / "a", base / "b"], base / "upper", base / "work", base / "merged"):
        (base / "merged" / "g").unlink()
        (base / "merged" / "n").write_text("n")
        with pyunionfs([base / "merged"], base / "upper2", base / "work2", base / "merged2") as daemon:
            assert sorted(os.listdir(daemon.merged)) == ["d", "f", "n"]
            (daemon.merged / "d" / "deep").write_text("changed")
            (daemon.merged / "n").unlink()
        assert (base / "merged" / "d" / "deep").read_text() == "deep"
        assert sorted(os.listdir(base / "upper2")) == ["d", "n"]


def test_a_union_on_a_union(base: Path) -> None:
    """The inner one's marks do not show, the outer one's are its own, and neither takes the other's."""
    with pyunionfs([base / "a", base / "b"], base / "upper", base / "work", base / "merged") as inner:
        (inner.merged / "d" / "deep").unlink()
        os.mkdir(inner.merged / "o")
        os.setxattr(inner.merged / "o", "trusted.overlay.opaque", b"y")
        assert os.getxattr(base / "upper" / "o", "trusted.overlay.overlay.opaque") == b"y"
        (base / "b" / "o").mkdir()
        with pyunionfs(
            [inner.merged, base / "b"], base / "upper2", base / "work2", base / "merged2"
        ) as outer:
            # What is a mark to the outer union is an attribute like any other to the inner one.
            (base / "b" / "o").rmdir()
            assert os.listdir(outer.merged / "o") == []
            assert (outer.merged / "d" / "deep").read_text() == "deep"
            (outer.merged / "f").unlink()
            assert not (outer.merged / "f").exists()
            assert (inner.merged / "f").exists()


def test_a_lower_without_acls_and_xattrs(base: Path) -> None:
    lower = base / "ram"
    lower.mkdir()
    mount("ram", lower, "ramfs")
    try:
        (lower / "f").write_text("ram")
        (lower / "f").chmod(0o644)
        lower.chmod(0o755)
        with pyunionfs([lower, base / "b"], base / "upper", base / "work", base / "merged") as daemon:
            os.chmod(base, 0o755)
            shown = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", daemon.merged / "f"],
                check=True,
                capture_output=True,
            )
            assert shown.stdout == b"ram"
            (daemon.merged / "f").write_text("changed")
            assert (lower / "f").read_text() == "ram"
    finally:
        umount(lower)


def test_a_read_only_lower_on_another_filesystem(base: Path) -> None:
    with loop_fs("ext4", 16 << 20) as lower:
        (lower / "big").write_bytes(b"x" * 300_000)
        (lower / "sub").mkdir()
        mount("none", lower, "", MS_REMOUNT | MS_RDONLY)
        with pyunionfs([lower, base / "b"], base / "upper", base / "work", base / "merged") as daemon:
            number = (daemon.merged / "big").stat().st_ino
            with open(daemon.merged / "big", "r+b") as file:
                file.write(b"y")
            assert (daemon.merged / "big").stat().st_ino == number
            (daemon.merged / "sub").rename(daemon.merged / "d" / "sub")
        with pyunionfs([lower, base / "b"], base / "upper", base / "work", base / "merged") as daemon:
            assert (daemon.merged / "big").stat().st_ino == number, "constant across remounts"
            assert (daemon.merged / "d" / "sub").is_dir()
