"""The benchmark itself: a quick run of a few workloads, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing import processes
from testing.bench.rounds import Bench
from testing.bench.sizes import QUICK
from testing.bench.systems import BenchError, Overlayfs, PyUnionFS
from testing.bench.work import Measure, Run, Workload
from tests.support.mounts import REPOSITORY, environment, needs_fuse, needs_overlayfs, needs_root

pytestmark = [needs_root, needs_fuse, needs_overlayfs]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testing.bench", *words],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_quick_run_measures_and_leaves_nothing(tmp_path: Path) -> None:
    result, table = tmp_path / "run.json", tmp_path / "run.md"
    space = tmp_path / "space"
    space.mkdir()
    done = bench(
        *("--quick", "--only", "opens,create,2 layers", "--systems", "native,overlayfs,pyfuse3"),
        *("--json", str(result), "--table", str(table), "--directory", str(space)),
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(result.read_text())
    assert list(run["systems"]) == ["native", "overlayfs", "pyfuse3"]
    assert run["machine"]["kernel"] == os.uname().release
    rows = {row["name"]: row["systems"] for row in run["rows"]}
    assert set(rows) == {"opens", "create", "rename", "unlink", "lookups 2 layers", "misses 2 layers"}
    for row in rows.values():
        for series in row.values():
            assert series["failed"] == ""
            assert len(series["values"]) == 1
            assert series["values"][0] == series["median"] > 0
    requests = rows["opens"]["pyfuse3"]["requests"]
    assert requests["OPEN"] == QUICK.opens
    assert not rows["opens"]["overlayfs"]["requests"]
    assert rows["misses 2 layers"]["pyfuse3"]["requests"]["LOOKUP"] >= QUICK.layer_names
    assert "| opens |" in table.read_text()
    assert not any(space.iterdir())


@pytest.mark.parametrize("words", [("--only", "no such work"), ("--systems", "ntfs"), ("--system", "x")])
def test_what_is_not_there_is_refused(words: tuple[str, ...]) -> None:
    done = bench("--quick", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("bench: ")
    assert "Traceback" not in done.stderr


def test_a_failure_is_a_result_and_the_run_goes_on(tmp_path: Path) -> None:
    def work(run: Run) -> None:
        with run.timed("first"):
            (run.merged / "file").touch()
        if run.system.name == "bad":
            raise BenchError("it does not do that")
        with run.timed("second"):
            (run.merged / "file").unlink()

    measures = (Measure("first", "creates"), Measure("second", "removes"))
    workload = Workload("two", "names", "small", measures, work, True, False, False)
    said: list[str] = []
    base = tmp_path / "base"
    base.mkdir()
    systems = [Overlayfs("good"), Overlayfs("bad"), Overlayfs("unmountable", "no_such_option")]
    rows = {row.name: row for row in Bench(base, QUICK, systems, [workload], 2, said.append).measure()}
    assert len(rows["first"].systems["good"].values) == len(rows["second"].systems["good"].values) == 2
    assert rows["first"].median("bad") is not None
    assert rows["second"].systems["bad"].failed == "it does not do that"
    assert "mounting failed" in rows["first"].systems["unmountable"].failed
    assert not (base / "run").exists()


def test_a_daemon_that_hangs_is_killed_and_the_run_goes_on(tmp_path: Path) -> None:
    daemons: list[int] = []

    def work(run: Run) -> None:
        daemons.append(run.mounted.pid)
        if len(daemons) == 1:
            processes.stop(run.mounted.pid)
            (run.merged / "never").touch()
        with run.timed("hangs"):
            (run.merged / "file").touch()

    workload = Workload("hangs", "names", "small", (Measure("hangs", ""),), work, True, False, False)
    base = tmp_path / "base"
    base.mkdir()
    system = PyUnionFS("stopped", "transport=pyfuse3", patience=5.0)
    row, *_ = Bench(base, QUICK, [system], [workload], 2, lambda _: None).measure()
    assert row.systems["stopped"].failed.startswith("given up after 5 s")
    assert len(row.systems["stopped"].values) == 1, "the second round is measured again"
    assert len(set(daemons)) == 2
    assert not any(Path(f"/proc/{daemon}").exists() for daemon in daemons)
