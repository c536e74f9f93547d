"""`run`, `exec` and `start` of an ordinary user, with one id and with a range of subordinate ones."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.mounts import REPOSITORY, environment, needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.support.users import as_user, open_home, ordinary_user

pytestmark = [needs_root, needs_fuse, one_transport]


@pytest.mark.parametrize("ids", [0, 65536])
def test_containers_of_an_ordinary_user(ids: int) -> None:
    with ordinary_user(subordinate_ids=ids > 0) as user, open_home(user.pw_uid) as home:
        done = subprocess.run(
            as_user(user, "tests.container.user_run", home, str(ids)),
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
