"""The API without privilege: an ordinary user with fusermount3, and the root of a user namespace."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.mounts import needs_fuse, needs_root
from tests.support.users import UNSHARE_USER, as_user, run_to_the_end, user_namespaces

pytestmark = [needs_root, needs_fuse]


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_an_ordinary_user(user: pwd.struct_passwd, home: Path, transport: str) -> None:
    os.chown(home, user.pw_uid, user.pw_gid)
    assert run_to_the_end(as_user(user, "tests.api.user_api", home)).endswith("all done\n")


@pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces")
def test_the_root_of_a_user_namespace(home: Path, transport: str) -> None:
    command = [*UNSHARE_USER, sys.executable, "-m", "tests.api.user_api", str(home)]
    assert run_to_the_end(command).endswith("all done\n")
