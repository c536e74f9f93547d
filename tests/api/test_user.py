"""The API without privilege: an ordinary user with fusermount3, and the root of a user namespace."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs.test_user import UNSHARE_USER, life, user_namespaces
from tests.support.mounts import needs_fuse, needs_root
from tests.support.users import as_user, open_home, ordinary_user

pytestmark = [needs_root, needs_fuse]


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    with ordinary_user() as made:
        yield made


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as made:
        yield made


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_an_ordinary_user(user: pwd.struct_passwd, home: Path, transport: str) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    life(as_user(user, "tests.api.user_api", home))


@pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces")
def test_the_root_of_a_user_namespace(home: Path, transport: str) -> None:
    life([*UNSHARE_USER, sys.executable, "-m", "tests.api.user_api", str(home)])
