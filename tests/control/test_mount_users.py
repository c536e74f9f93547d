"""Who may use a mount, while processes come and go."""

from __future__ import annotations

import os

import pytest

from unionfs.linux import mount_users
from unionfs.linux.mount import mount_table


def test_a_process_that_is_ending_uses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has left its namespaces since it was looked up: opening its mount table is EINVAL."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(mount_users, "_namespace", lambda pid: f"of {pid}")
    monkeypatch.setattr(mount_users, "_name", lambda pid: "other")
    monkeypatch.setattr(os, "listdir", lambda path: [str(pid)])
    entry = mount_table()[0]
    try:
        assert not mount_users.may_be_in_use(entry.mount_id, entry.device, "pyunionfs")
    finally:
        os.waitpid(pid, 0)
