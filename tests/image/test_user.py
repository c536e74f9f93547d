"""The store of an ordinary user: with a single id, and as root of a user namespace."""

from __future__ import annotations

import shutil

import pytest

from tests.programs.test_user import life
from tests.support.mounts import needs_root
from tests.support.users import as_user, open_home, ordinary_user

pytestmark = needs_root


@pytest.mark.parametrize("form", ["override_stat", "userns"])
def test_an_ordinary_user_s_store(form: str) -> None:
    if form == "userns" and not shutil.which("newuidmap"):
        pytest.skip("needs newuidmap (Debian's package uidmap)")
    with ordinary_user(subordinate_ids=form == "userns") as user, open_home(user.pw_uid) as home:
        life(as_user(user, "tests.image.user_store", str(home), form))
