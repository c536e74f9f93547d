"""Containers of an ordinary user: with a single id, with subordinate ids, and in a user namespace."""

from __future__ import annotations

import shutil

import pytest

from tests.programs.test_user import life
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.support.users import open_home, ordinary_user, unshared

pytestmark = [needs_root, needs_fuse, one_transport]


@pytest.mark.parametrize(
    ("subordinate_ids", "form"), [(False, "override_stat"), (True, "override_stat"), (True, "userns")]
)
def test_an_ordinary_user(transport: str, subordinate_ids: bool, form: str) -> None:
    if subordinate_ids and not shutil.which("newuidmap"):
        pytest.skip("needs newuidmap (Debian's package uidmap)")
    with ordinary_user(subordinate_ids=subordinate_ids) as user, open_home(user.pw_uid) as home:
        ids = (str(user.pw_uid), str(user.pw_gid))
        life(
            [*unshared(), "tests.containers.start", *ids, "tests.container.user_containers", str(home), form]
        )
