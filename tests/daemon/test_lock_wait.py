"""Upper and work are waited for while nobody who is mounted has them, and not otherwise."""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from unionfs.control import status_socket
from unionfs.control.status_schema import Status
from unionfs.daemon import lock_wait
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.lock import InUse, lock_and_check


@pytest.fixture
def config(tmp_path: Path) -> UnionConfig:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    upper, work = str(tmp_path / "upper"), str(tmp_path / "work")
    return UnionConfig((str(tmp_path / "lower"),), upper=upper, work=work, userxattr=True)


def held(path: str | None) -> int:
    assert path is not None
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


@pytest.mark.parametrize("which", ["upper", "work"])
def test_who_lets_go_in_time_is_waited_for(
    config: UnionConfig, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = held(getattr(config, which))

    def mounts() -> list[Status]:
        os.close(fd)  # it lets go once somebody has looked for it
        return []

    monkeypatch.setattr(status_socket, "list_mounts", mounts)
    lock_wait.acquire(config, 60).close()


def test_who_does_not_let_go_is_waited_for_no_longer_than_that(config: UnionConfig) -> None:
    fd = held(config.upper)
    with pytest.raises(InUse, match="is in use by another mount"):
        lock_wait.acquire(config, 0.1)
    os.close(fd)


@pytest.mark.parametrize(("state", "waits"), [("serving", False), ("detached", True), ("unreachable", True)])
@pytest.mark.parametrize("which", ["upper", "work"])
def test_who_is_mounted_is_not_waited_for(
    config: UnionConfig, state: str, waits: bool, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = held(getattr(config, which))
    status = {"state": state, "upper": "/other", "work": "/other", which: getattr(config, which)}
    status |= {"mountpoint": "/m", "pid": 9, "in_use": True, "silent_opens": False}
    monkeypatch.setattr(status_socket, "list_mounts", lambda: [status])
    timer = threading.Timer(0.3, os.close, (fd,))
    timer.start()
    if waits:
        lock_wait.acquire(config, 60).close()
    else:
        says = rf"^{which} {getattr(config, which)} is in use by the mount on /m \(pid 9\): unmount that one"
        with pytest.raises(InUse, match=says):
            lock_wait.acquire(config, 60)
    timer.join()


@pytest.mark.parametrize(("silent", "files"), [(False, "are still"), (True, "may be")])
def test_who_is_waited_for_is_said_once_and_named_when_it_was_in_vain(
    config: UnionConfig,
    silent: bool,
    files: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fd = held(config.upper)
    status = {"state": "detached", "upper": config.upper, "work": None, "pid": 9}
    status |= {"in_use": True, "silent_opens": silent}
    monkeypatch.setattr(status_socket, "list_mounts", lambda: [status])
    for setting in ("_QUIET_TIME", "_DETACH_TIME", "_QUERY_INTERVAL"):
        monkeypatch.setattr(lock_wait, setting, 0)
    # A clock of its own: a slow machine takes longer for one attempt than is waited for.
    ticks = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(ticks) * 0.01)
    with pytest.raises(InUse, match=rf"detached with --lazy.* files in it {files} open \(pid 9\): close"):
        lock_wait.acquire(config, 0.1)
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert err.startswith(f"pyunionfs: waiting for pid 9 to release upper {config.upper}")
    assert err.count("\n") == 1
    os.close(fd)


def test_another_mount_does_not_count(config: UnionConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = held(config.upper)
    status = {"state": "serving", "upper": "/other", "work": None}
    monkeypatch.setattr(status_socket, "list_mounts", lambda: [status])
    timer = threading.Timer(0.3, os.close, (fd,))
    timer.start()
    lock_wait.acquire(config, 60).close()
    timer.join()


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        ({}, True),
        ({"silent_opens": True}, True),
        ({"in_use": True}, False),
        ({"user": os.geteuid() + 1}, False),
    ],
)
def test_an_engine_shares_upper_with_its_own_user_only_and_while_nothing_is_open(
    config: UnionConfig, other: Status, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = held(config.upper)
    idle = {
        "state": "detached",
        "upper": config.upper,
        "work": None,
        "in_use": False,
        "silent_opens": False,
        "user": os.geteuid(),
        "pid": 9,
    }
    monkeypatch.setattr(status_socket, "list_mounts", lambda: [{**idle, **other}])
    monkeypatch.setattr(lock_wait, "_DETACH_TIME", 0)
    engine = replace(config, any_work=True)
    if shares:
        lock = lock_wait.acquire(engine, 60)
        assert lock.shared
        lock.close()
    else:
        with pytest.raises(InUse):
            lock_wait.acquire(engine, 0.1)
    os.close(fd)


@pytest.mark.parametrize("engine", [False, True])
def test_who_shares_still_has_upper_when_the_first_mount_has_ended(
    config: UnionConfig, engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.work is not None
    os.mkdir(f"{config.work}/work")
    first = lock_wait.acquire(config, 0)
    sharer = lock_and_check(replace(config, any_work=True, shared_work=True))
    another = lock_and_check(replace(config, any_work=True, shared_work=True))
    assert sharer.shared
    assert another.shared
    first.close()
    another.close()
    serving = {"state": "serving", "upper": config.upper, "work": None, "mountpoint": "/m", "pid": 9}
    monkeypatch.setattr(status_socket, "list_mounts", lambda: [serving])
    with pytest.raises(InUse, match=r"^work .*work is in use by the mount on /m"):
        lock_wait.acquire(replace(config, any_work=engine), 60)
    late = lock_and_check(replace(config, any_work=True, shared_work=True))
    assert late.shared
    late.close()
    sharer.close()
    lock_wait.acquire(config, 0).close()
