"""Mounts without privilege: an ordinary user with fusermount3, and the root of a user namespace."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import environment, mount, needs_fuse, needs_root, umount
from tests.support.users import as_user, open_home, ordinary_user

pytestmark = [needs_root, needs_fuse]

UNSHARE_USER = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    with ordinary_user() as made:
        yield made


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as made:
        yield made


def user_namespaces() -> bool:
    """Whether the kernel lets this process make one."""
    return subprocess.run([*UNSHARE_USER, "true"], capture_output=True).returncode == 0


def life(command: list[str]) -> None:
    """Run user_life somehow; it says at its end that it came to its end."""
    done = subprocess.run(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("all done\n")


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
    mount("tmpfs", disk, "tmpfs", 0, f"size=4m,mode=755,uid={user.pw_uid},gid={user.pw_gid}")
    try:
        life(as_user(user, "tests.programs.user_data", home))
    finally:
        umount(disk)


@pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces")
def test_user_namespace_of_root(home: Path) -> None:
    life([*UNSHARE_USER, sys.executable, "-m", "tests.programs.user_life", str(home)])


@pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces")
def test_user_namespace_of_an_ordinary_user(user: pwd.struct_passwd, home: Path) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    life(as_user(user, "tests.programs.in_namespace", "tests.programs.user_life", home))
    owners = {path.lstat().st_uid for path in home.rglob("*")}
    assert owners == {user.pw_uid}
