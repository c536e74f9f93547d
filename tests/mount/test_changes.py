"""`pyunionfs changes` of a union that is mounted and in use."""

from __future__ import annotations

import json
import os
from pathlib import Path

from testing import processes
from tests.mount.rig import mount, run
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse]


def lines(*words: str | Path) -> list[str]:
    return run("changes", *words).stdout.splitlines()


def test_a_mounted_union(base: Path) -> None:
    merged, lower = base / "merged", base / "lower"
    for name in ("d/sub/f", "d/g", "gone/x"):
        (lower / name).parent.mkdir(parents=True, exist_ok=True)
        (lower / name).write_text(name)
    mount(base)
    try:
        assert lines(merged) == []
        (merged / "file").write_text("changed\n")
        (merged / "d/new").write_text("new")
        (merged / "gone/x").unlink()
        (merged / "gone").rmdir()
        expected = ["C /d", "A /d/new", "C /file", "D /gone"]
        assert lines(merged) == expected
        (merged / "d").rename(merged / "e")
        moved = ["D /d", "A /e", "A /e/g", "A /e/new", "A /e/sub", "A /e/sub/f", "C /file", "D /gone"]
        assert lines(merged) == moved
        # What was opened and left as it was is no change; a relative path is the caller's.
        with (merged / "e/g").open("r+"):
            assert run("changes", "merged", cwd=base).stdout.splitlines() == moved
        document = json.loads(run("changes", "--json", merged).stdout)
        assert (document["merged"], document["upper"]) == (str(merged), str(base / "upper"))
        assert document["lowers"] == [str(lower)]
        assert (document["totals"]["added"], document["totals"]["deleted"]) == (5, 2)
        assert f"mounted at {merged}: give that" in run("changes", merged / "e", status=1).stderr
        # By the upper alone what has moved is not seen, but where from.
        alone = json.loads(run("changes", "--json", base / "upper").stdout)["changes"]
        assert {"path": "/e", "from": "/d"}.items() <= next(
            each for each in alone if each["path"] == "/e"
        ).items()
    finally:
        run("umount", merged)
    assert lines("--lowers", lower, base / "upper") == moved


@one_transport
def test_a_read_only_union(base: Path) -> None:
    run("mount", base / "lower", base / "merged")
    try:
        assert "without an upper" in run("changes", base / "merged", status=1).stderr
    finally:
        run("umount", base / "merged")


@one_transport
def test_a_daemon_that_does_not_answer(base: Path) -> None:
    pid = mount(base)
    processes.stop(pid)
    try:
        done = run("changes", base / "merged", status=1)
        assert "give the upper directory instead" in done.stderr
        assert lines(base / "upper") == []
    finally:
        os.kill(pid, 18)
        run("umount", base / "merged")
