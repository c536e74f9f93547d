"""A daemon that is not told what is open takes nothing for closed: at SIGTERM, and for who shares upper."""

from __future__ import annotations

import mmap
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.mount.rig import eventually, gone, run, statuses
from tests.support.mounts import command, environment, mount_types, needs_fuse, needs_root, status_pid
from tests.support.transports import one_transport
from unionfs.daemon import event_loop, lock_wait
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.lock import InUse

pytestmark = [needs_root, needs_fuse, one_transport]


def test_what_is_open_at_sigterm_is_written_to_the_end(base: Path) -> None:
    words = ["mount", "-o", "transport=direct,passthrough=off"]
    run(*words, *(base / name for name in ("lower", "upper", "work", "merged")))
    pid = status_pid(base / "merged")
    with (base / "merged" / "new").open("w") as file:
        os.kill(pid, signal.SIGTERM)
        assert eventually(lambda: mount_types(base / "merged") == [])
        daemon = os.pidfd_open(pid)
        try:
            # Twice the time after which one that knows of nothing open ends.
            assert select.select([daemon], [], [], 2 * event_loop._DRAIN_TIME)[0] == []
        finally:
            os.close(daemon)
        file.write("written after the signal")
    # The kernel ends the session at the last close, long before the grace is over.
    assert eventually(lambda: gone(pid))
    assert (base / "upper" / "new").read_text() == "written after the signal"


def end(shell: subprocess.Popen[str]) -> None:
    """Have it end; more than once is as well."""
    assert shell.stdin is not None
    shell.stdin.close()
    shell.wait(timeout=20)


@contextmanager
def left_behind(base: Path) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """A mount in another mount namespace, in which a shell lives until it has read a line."""
    layers = "lowerdir=lower,upperdir=upper,workdir=work,transport=direct,passthrough=off"
    script = '"$@" && echo mounted && read -r line'
    shell = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command("-o", layers, "merged")],
        cwd=base,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout is not None
    assert shell.stdout.readline() == "mounted\n"
    [status] = [each for each in statuses() if each["upper"] == str(base / "upper")]
    try:
        yield status, shell
    finally:
        end(shell)
        os.kill(status["pid"], signal.SIGTERM)
        assert eventually(lambda: gone(status["pid"]))


def in_use(base: Path) -> bool:
    [status] = [each for each in statuses() if each["upper"] == str(base / "upper")]
    assert (status["state"], status["silent_opens"], status["open_handles"]) == ("detached", True, 0)
    return bool(status["in_use"])


def test_it_is_in_use_while_a_process_can_reach_it_or_has_a_file_of_it(base: Path) -> None:
    (base / "lower" / "file").write_bytes(b"x" * mmap.PAGESIZE)
    with left_behind(base) as (status, shell), ExitStack() as stack:
        assert in_use(base), "a shell lives there"
        # From outside of the namespace.
        path = f"/proc/{status['pid']}/root{base}/merged/file"
        fd = os.open(path, os.O_RDONLY)
        end(shell)
        assert in_use(base), "a file is open"
        mapped = stack.enter_context(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        os.close(fd)
        assert in_use(base), "a file is mapped"
        mapped.close()
        assert not in_use(base)


def test_an_engine_shares_upper_only_when_nothing_can_be_open(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = UnionConfig(
        lowers=(str(base / "lower"),), upper=str(base / "upper"), work=str(base / "work"), any_work=True
    )
    monkeypatch.setattr(lock_wait, "_DETACH_TIME", 0)
    monkeypatch.setattr(lock_wait, "_QUERY_INTERVAL", 0)
    with left_behind(base) as (_, shell):
        with pytest.raises(InUse, match="files in it may be open"):
            lock_wait.acquire(config, 0.5)
        end(shell)
        lock = lock_wait.acquire(config, 60)
        assert lock.shared
        lock.close()
