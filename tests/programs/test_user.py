"""Mounts without privilege: an ordinary user with fusermount3, and the root of a user namespace."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.mounts import mounted, needs_fuse, needs_root
from tests.support.users import UNSHARE_USER, as_user, run_to_the_end, user_namespaces

pytestmark = [needs_root, needs_fuse]


def life(command: list[str]) -> None:
    """Run a program of a user's life somehow; it says at its end that it came to its end."""
    assert run_to_the_end(command).endswith("all done\n")


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_ordinary_user_with_fusermount3(user: pwd.struct_passwd, home: Path) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    life(as_user(user, "tests.programs.user_life", home))
    owners = {path.lstat().st_uid for path in home.rglob("*")}
    assert owners == {user.pw_uid}


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_options_with_fusermount3(user: pwd.struct_passwd, home: Path) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    life(as_user(user, "tests.programs.user_options", home))


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_renames_with_fusermount3(user: pwd.struct_passwd, home: Path) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    life(as_user(user, "tests.programs.user_renames", home))


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_data_with_fusermount3(user: pwd.struct_passwd, home: Path) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    disk = home / "disk"
    disk.mkdir()
    with mounted("tmpfs", disk, data=f"size=4m,mode=755,uid={user.pw_uid},gid={user.pw_gid}"):
        life(as_user(user, "tests.programs.user_data", home))


@pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces")
def test_user_namespace_of_root(home: Path) -> None:
    life([*UNSHARE_USER, sys.executable, "-m", "tests.programs.user_life", str(home)])


@pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces")
def test_user_namespace_of_an_ordinary_user(user: pwd.struct_passwd, home: Path) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    life(as_user(user, "tests.programs.in_namespace", "tests.programs.user_life", home))
    owners = {path.lstat().st_uid for path in home.rglob("*")}
    assert owners == {user.pw_uid}
