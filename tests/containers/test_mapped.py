"""podman's containers in user namespaces of their own: ids that layers hold are those of the container."""

from __future__ import annotations

import pytest

from tests.containers.test_engines import Who
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.support.users import ordinary_user

pytestmark = [needs_root, needs_fuse, one_transport, pytest.mark.usefixtures("engines")]

OWNERS = ["-rw-r--r-- 1 0 0", "-rwsr-xr-x 1 3 4", "drwxr-xr-x 3 0 0"]


def test_keep_id_and_auto() -> None:
    """Their engine maps ids by uidmapping= and gidmapping=, not by changing any file."""
    with ordinary_user(subordinate_ids=True) as user:
        outcome = Who(user.pw_uid).run("mapped", None)
    for kind in ("keep-id 0", "auto:size=5000 0"):
        lines = [" ".join(line.split()) for line in outcome[kind]]
        assert [line for line in lines if line.startswith(("-", "d"))] == [
            *OWNERS,
            "-rwsr-x--- 1 7 8",
        ]
        assert "touched" in lines
    lines = [" ".join(line.split()) for line in outcome["keep-id 3:4"]]
    assert [line for line in lines if line.startswith(("-", "d"))] == OWNERS
    assert "refused" in lines
