"""The store of an ordinary user: with a single id, and as root of a user namespace."""

from __future__ import annotations

import shutil

import pytest

from tests.programs.test_user import life
from tests.support.mounts import needs_root
from tests.support.users import as_user, change_ids, open_home, ordinary_user

pytestmark = needs_root


@pytest.mark.parametrize("form", ["override_stat", "userns"])
def test_an_ordinary_user_s_store(form: str) -> None:
    if form == "userns" and not shutil.which("newuidmap"):
        pytest.skip("needs newuidmap (Debian's package uidmap)")
    with ordinary_user(subordinate_ids=form == "userns") as user, open_home(user.pw_uid) as home:
        life(as_user(user, "tests.image.user_store", str(home), form))


def test_ids_that_come_and_go() -> None:
    """A store stays in the form that it was made in, and a user that can no longer use it is told why."""
    if not shutil.which("newuidmap"):
        pytest.skip("needs newuidmap (Debian's package uidmap)")
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        life(as_user(user, "tests.image.user_ids", str(home), "without"))
        change_ids(user, "add")
        life(as_user(user, "tests.image.user_ids", str(home), "given"))
        change_ids(user, "del")
        life(as_user(user, "tests.image.user_ids", str(home), "taken"))
