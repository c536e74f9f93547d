"""Renaming a directory of a lower through a mount where no redirect may be written."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.rig import mount
from tests.support.mounts import needs_fuse, needs_root, umount

pytestmark = [needs_root, needs_fuse]


@pytest.mark.parametrize("form", ["userxattr", "whiteouts=aufs", "redirect_dir=off"])
def test_programs_rename_directories_of_lowers(base: Path, form: str) -> None:
    merged = base / "merged"
    tree = base / "lower/tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "big").write_bytes(os.urandom(300_000))
    for at in range(300):
        (tree / f"sub/{at}").write_text(str(at))
    mount(base, "-o", f"rename_copy_bytes=100000000,{form}")
    try:
        held = os.open(merged / "tree/sub", os.O_RDONLY | os.O_DIRECTORY)
        number = os.stat(merged / "tree/sub").st_ino
        os.rename(merged / "tree", merged / "moved")
        assert os.stat(merged / "moved/sub").st_ino == number
        assert sorted(os.listdir(held)) == sorted(map(str, range(300)))
        os.close(held)
        subprocess.run(["mv", "-T", "moved", "again"], cwd=merged, check=True)
        assert (merged / "again/big").read_bytes() == (tree / "big").read_bytes()
        assert "tree" not in os.listdir(merged)
        assert {p.name: p.read_text() for p in (merged / "again/sub").iterdir()} == {
            str(at): str(at) for at in range(300)
        }
    finally:
        umount(merged)
    mount(base, "-o", form)
    try:
        assert sorted(os.listdir(merged / "again/sub")) == sorted(map(str, range(300)))
        assert not (merged / "tree").exists()
    finally:
        umount(merged)


def test_without_the_option_it_is_exdev(base: Path) -> None:
    (base / "lower/tree").mkdir()
    mount(base, "-o", "redirect_dir=off")
    try:
        with pytest.raises(OSError) as caught:
            os.rename(base / "merged/tree", base / "merged/moved")
        assert caught.value.errno == errno.EXDEV
    finally:
        umount(base / "merged")
